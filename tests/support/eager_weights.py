"""Weights in memory, in place of files that are read by parts."""


class EagerWeights:
    """All parts of a network at once, with the interface of :class:`engine.loading.Weights` that a backbone uses.

    Args:
        network: the :class:`peft.PeftModel`, with its adapters
        tasks: the adapters' tasks
        rank: their rank, for which room is made in each layer
    """

    changed = False

    def __init__(self, network, tasks, rank):
        self._network, self.tasks, self.rank = network, tasks, rank

    def text_towers(self):
        return self._network

    def vision_tower(self):
        return self._network.base_model.model.model.visual

    def check(self):
        pass
