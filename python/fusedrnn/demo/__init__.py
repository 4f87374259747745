"""``python -m fusedrnn demo``: small programs that show what sequence models do.

=================  ==============================================================
`programs`         all of them, by name
`example`          what those in ``examples/`` have in common
=================  ==============================================================

``language``, a language model of characters or words, trained while you watch:

=================  ==============================================================
`command`          the command line
`language`         what it does, from the text to what is printed
`corpus`           the text and its symbols
`ngrams`           the baselines: uniform, unigram, bigram, trigram
`model`            embedding, fused layer, softmax, of the parts in `fusedrnn.models`
`recipe`           sizes and learning rates
`continuations`    good and bad continuations, and their probabilities
`judgement`        what a model has learned
`saved`            a trained model in files
`speed`            where the time goes, and kernels beside the NumPy reference
`report`           what is printed
`picture`          the training as a picture
=================  ==============================================================
"""
