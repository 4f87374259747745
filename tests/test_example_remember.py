"""examples/remember.py: the maze, the gradient of the policy, and what memory is good for."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from examples import remember as example
from fusedrnn.demo.example import Options, missed

AHEAD, BACK, LEFT, RIGHT = example.ACTIONS


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    options = Options(quick=True, pictures=tmp_path_factory.mktemp("pictures"))
    return SimpleNamespace(figures=example.run(options), pictures=options.pictures)


def maze(count=1, longest=4, seed=0):
    return example.Maze(count, longest, np.random.default_rng(seed))


def episodes(name, count=5, longest=4, seed=0):
    agent = example.make_agent(name, seed)
    return agent, example.play(agent, count, longest, np.random.default_rng(seed))


def test_it_learns_with_memory_only(done):
    assert missed(done.figures, example.BOUNDS, quick=True) == []


def test_the_picture_is_there(done):
    assert (done.pictures / "remember.png").read_bytes().startswith(b"\x89PNG")


def test_the_bounds_of_learning_are_out_of_reach_without_training_and_without_memory(done):
    learned = [bound for bound in example.BOUNDS if bound.at_least is not None]
    assert len(learned) == 2
    for bound in learned:
        agent = example.make_agent(bound.name.removeprefix("success, "), 0)
        played = example.play(agent, 500, example.QUICK.longest, np.random.default_rng(0))
        assert not bound.met(float(played.found.mean()), quick=True)
        assert not bound.met(done.figures["success, memoryless"], quick=True)


def test_the_way_to_the_goal():
    mazes = maze(count=200, longest=10)
    assert mazes.length.min() == 5 and mazes.length.max() == 10
    assert set(mazes.goal) == {LEFT, RIGHT}
    total = np.zeros(200)
    for t in range(11):
        x = mazes.observe()
        for n in np.flatnonzero(~mazes.ended):
            want = [1, 0, 1]
            if t == 0:
                want = {LEFT: [0, 1, 1], RIGHT: [1, 1, 0]}[mazes.goal[n]]
            elif t == mazes.length[n]:
                want = [0, 1, 0]
            assert x[n].tolist() == want
        at_end = mazes.place == mazes.length
        total += mazes.step(np.where(at_end, mazes.goal, AHEAD))
        assert (mazes.ended == (t >= mazes.length)).all()
    assert mazes.found.all()
    np.testing.assert_array_equal(total, 4.0)


def test_the_wrong_turn_ends_it_too():
    m = maze()
    for _ in range(m.length[0]):
        m.step(np.array([AHEAD]))
    wrong = LEFT + RIGHT - m.goal
    assert m.step(wrong).tolist() == [-0.1]
    assert m.ended.all() and not m.found.any()
    assert m.step(m.goal).tolist() == [0.0]  # what is over is over
    assert not m.found.any()


def test_what_does_not_lead_on_costs_something():
    m = maze()
    for action, place in ((BACK, 0), (LEFT, 0), (AHEAD, 1), (RIGHT, 1), (BACK, 0)):
        reward = m.step(np.array([action]))
        assert reward.tolist() == [0.0 if action == AHEAD else -0.1]
        assert m.place.tolist() == [place] and not m.ended.any()
    for _ in range(m.length[0]):
        m.step(np.array([AHEAD]))
    assert m.step(np.array([AHEAD])).tolist() == [-0.1]  # a wall
    assert m.place == m.length and not m.ended.any()


@pytest.mark.parametrize("name", example.COLORS)
def test_acting_and_learning_see_the_same(name):
    agent, played = episodes(name)
    assert played.x.dtype == np.float32
    y, _, _ = agent.forward(played.x, lengths=played.lengths)
    state = None
    for t, x in enumerate(played.x):
        step, state = agent(x[np.newaxis], state)
        going = t < played.lengths
        np.testing.assert_allclose(y[t][going], step[0][going], atol=1e-6)


def test_lengths_are_those_until_the_turn():
    _, played = episodes("GRU", count=300)
    at_end = (played.x == example.Maze.JUNCTION).all(axis=-1)
    for n, length in enumerate(played.lengths):
        turns = np.flatnonzero(at_end[:, n] & (played.actions[:, n] >= LEFT))
        assert length == (turns[0] + 1 if turns.size else 12)  # 12: time is up
    rewards = np.where(np.arange(len(played.x))[:, np.newaxis] < played.lengths, 0, played.rewards)
    assert not rewards.any()
    np.testing.assert_array_equal(played.found, (played.rewards == 4).any(axis=0))


def test_actions_are_drawn_from_the_policy(monkeypatch):
    agent, counts = example.make_agent("GRU", 0), np.zeros(4)

    def stay(self, actions):
        counts[:] += np.bincount(actions, minlength=4)
        return np.zeros(len(actions))

    monkeypatch.setattr(example.Maze, "step", stay)
    example.play(agent, 20_000, 1, np.random.default_rng(0))
    pi, state = np.zeros(4), None
    for _ in range(3):  # until time is up
        y, state = agent(example.Maze.SIGNALS[np.newaxis], state)
        pi += np.exp(example.log_softmax(y[0, :, :-1])).mean(axis=0) / 3
    assert counts.sum() == 60_000
    # A part of 60,000 draws has a standard deviation of at most 0.002.
    np.testing.assert_allclose(counts / 60_000, pi, atol=0.01)


def test_returns_are_discounted_sums():
    rewards = np.random.default_rng(0).normal(size=(5, 3))
    g = example.returns(rewards)
    for t in range(5):
        want = sum(example.DISCOUNT**k * rewards[t + k] for k in range(5 - t))
        np.testing.assert_allclose(g[t], want, rtol=1e-13)


def test_the_gradient_is_that_of_the_loss():
    _, played = episodes("GRU")
    counts = np.arange(len(played.x))[:, np.newaxis] < played.lengths
    y = np.random.default_rng(0).normal(size=(*played.actions.shape, 5))
    g = example.returns(played.rewards)
    advantage = g - y[..., -1]  # a constant
    chosen = played.actions[..., np.newaxis]

    def loss(y):
        log_pi = example.log_softmax(y[..., :-1])
        log_p = np.take_along_axis(log_pi, chosen, axis=-1)[..., 0]
        entropy = -(np.exp(log_pi) * log_pi).sum(axis=-1)
        each = -advantage * log_p + (y[..., -1] - g) ** 2 / 2 - example.ENTROPY * entropy
        return each[counts].mean()

    got = example.loss_gradient(y, played)
    assert got.dtype == np.float64
    for index in np.ndindex(y.shape):
        step = np.zeros_like(y)
        step[index] = 1e-5
        want = (loss(y + step) - loss(y - step)) / 2e-5
        assert got[index] == pytest.approx(want, abs=1e-9)


def test_the_same_seed_gives_the_same_bits():
    size = example.Size(4, 3)
    (first, found), (second, again), (other, _) = (
        example.train("LSTM", size, seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(found, again)
    for name, array in first.parameters.items():
        np.testing.assert_array_equal(array, second.parameters[name])
    assert (first.parameters["1.weight"] != other.parameters["1.weight"]).any()
