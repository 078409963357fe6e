"""The engine: Jina Embeddings v4 on torch, transformers and PEFT, with no FiftyOne in it.

The files tell the story of one input, top to bottom::

    checkpoint, loading  ->  images, processing  ->  backbone  ->  pooling  ->  encoder  ->  scoring
    (files, weights)         (pixels, tokens)        (states)      (vectors)    (batches)    (scores)

Nothing is imported here, so that reading a checkpoint's files, or loading images in a data loader's worker,
costs no more than it needs.
"""
