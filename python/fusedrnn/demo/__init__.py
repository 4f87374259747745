"""``python -m fusedrnn demo``: a language model of characters, trained while you watch.

=============  ================================================
`corpus`       the text and its symbols
`ngrams`       the baselines: uniform, unigram, bigram, trigram
`model`        embedding, fused layer, softmax
`head`         softmax and loss, forward and backward
`adam`         the optimizer
`blas`         NumPy's threads
`training`     truncated back-propagation over streams of text
`progress`     a bar, or lines
`checkpoint`   a trained model in a file
`speed`        kernels beside the NumPy reference
`command`      the command line, and the report
=============  ================================================
"""

from .command import add_parser

__all__ = ["add_parser"]
