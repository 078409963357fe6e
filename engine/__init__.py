"""The engine: Jina Embeddings v4 on torch, transformers and PEFT, with no FiftyOne in it.

An input passes through the files in this order::

    checkpoint, loading  ->  images, processing  ->  backbone  ->  pooling  ->  encoder  ->  scoring
    (files, weights)         (pixels, tokens)        (states)      (vectors)    (batches)    (scores)

Nothing is imported here, so that a process that only reads a checkpoint's files, or only loads images, imports no
more than it needs.
"""
