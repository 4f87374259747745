"""A wheel in an environment that has NumPy and nothing else: every kind of call, and a training."""

import sys

import numpy as np

import fusedrnn
from fusedrnn import models

assert "torch" not in sys.modules
print(fusedrnn.info())
for layer in (fusedrnn.LSTM(5, 7), fusedrnn.GRU(5, 7), fusedrnn.RNN(5, 7)):
    y, state, tape = layer.forward(np.ones((3, 2, 5), np.float32))
    gradients = layer.backward(tape, np.ones_like(y))
    assert np.isfinite(gradients.x).all() and gradients.x.any()

x = np.sin(np.arange(400, dtype=np.float32) / 5)[:, np.newaxis]
model = models.SequenceModel(fusedrnn.GRU(1, 8, seed=0), models.RegressionHead(8, 1, seed=0))
data = models.Streams(x, streams=4, steps=20, seed=0)
history = models.fit(model, data, models.Adam(model, 0.01), epochs=10)
losses = history.column("training_loss")
assert losses[-1] < losses[0] / 5
models.save("model.npz", model)
assert (models.load("model.npz").predict(x)[0] == model.predict(x)[0]).all()
