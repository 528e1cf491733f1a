"""Composition of minibatches, pairs, negatives; principal components; what --losses may say."""

from __future__ import annotations

import numpy as np
import pytest

from representations.batches import give_pairs, has_pair, make_batches, negatives
from representations.loss_flags import Term, family_of, parse_losses
from representations.pca import principal_components

STARTS = np.zeros(100, bool)
STARTS[[0, 30, 31, 80]] = True


def test_minibatches_hold_every_transition_once():
    train, validation = make_batches(STARTS, 8, 0.25, np.random.default_rng(0))
    rows = np.concatenate([train, validation]).ravel()
    usable = set(range(99)) - {29, 30, 79}
    assert len(train) == 9 and len(validation) == 3
    assert set(rows) <= usable and len(set(rows)) == len(rows) == 96
    assert (np.diff(train, axis=1) > 0).all()


def test_at_least_one_minibatch_validates_and_one_trains():
    for share in (0.0, 0.9):
        train, validation = make_batches(STARTS, 48, share, np.random.default_rng(0))
        assert len(train) == len(validation) == 1
    with pytest.raises(
        ValueError, match=r"^the dataset has 96 transitions, which make less than two minibatches of 49"
    ):
        make_batches(STARTS, 49, 0.2, np.random.default_rng(0))


def test_every_minibatch_gets_a_pair_with_different_rewards():
    rng = np.random.default_rng(0)
    actions, rewards = rng.integers(0, 3, 60), np.zeros(60, np.float32)
    rewards[17] = 1.0
    batches = np.sort(rng.permutation(60).reshape(6, 10), axis=1)
    given = give_pairs(batches, actions, rewards, rng)
    for batch in given:
        same = actions[batch][:, None] == actions[batch][None]
        assert (same & (rewards[batch][:, None] != rewards[batch][None])).any()
    assert (given != batches).any() and set(given.ravel()) <= set(range(60))
    with pytest.raises(ValueError, match=r"^--losses priors needs two transitions with the same action and different"):
        give_pairs(batches, actions, np.zeros(60), rng)


def test_pairs_have_the_same_action_and_different_rewards():
    actions, rewards = np.array([0, 0, 1, 1, 2]), np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    assert has_pair(np.array([[2, 0], [1, 3]]), actions, rewards)
    assert not has_pair(np.array([0, 1, 2, 4]), actions, rewards) and not has_pair(np.array([3]), actions, rewards)


def test_negatives_are_other_frames_of_the_episode():
    episodes = np.repeat([0, 1, 2], [5, 1, 9])
    rows = np.tile(np.arange(15), (400, 1))
    drawn = negatives(rows, episodes, np.random.default_rng(0))
    np.testing.assert_array_equal(episodes[drawn], episodes[rows])
    alone = rows == 5
    assert (drawn[~alone] != rows[~alone]).all() and (drawn[alone] == 5).all()
    assert set(drawn[:, 8]) == set(range(6, 15)) - {8}


def test_principal_components_are_those_of_a_decomposition():
    rng = np.random.default_rng(0)
    frames = np.clip(rng.normal(128, 20, (300, 1, 1, 4)) @ rng.normal(0, 0.6, (1, 1, 4, 75)) + 100, 0, 255)
    frames = frames.astype(np.uint8).reshape(300, 5, 5, 3)
    found = principal_components(frames, 3)
    x = ((frames / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).reshape(300, -1)
    mean = x.mean(axis=0)
    expected = np.linalg.svd(x - mean, full_matrices=False)[2][:3].T
    np.testing.assert_allclose(found["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(found["components"] * expected, axis=0)), 1.0, atol=1e-3)
    with pytest.raises(ValueError, match=r"^4 pictures have less than 4 principal components: lower --state-dim$"):
        principal_components(frames[:4], 4)


def test_splits_lay_out_the_state_in_order():
    terms = parse_losses(["autoencoder:1:198", "reward:1:-1", "inverse:2:2"], 200)
    assert terms == (
        Term("autoencoder", 1.0, 198, 0, 198),
        Term("reward", 1.0, -1, 0, 198),
        Term("inverse", 2.0, 2, 198, 200),
    )
    assert parse_losses(["inverse", "vae"], 3) == (Term("inverse", 2.0, 0, 0, 3), Term("vae", 0.5e-6, 0, 0, 3))
    assert parse_losses(["inverse:0.5", "forward:2"], 3)[0].weight == 0.5
    assert [family_of(names) for names in (["dae", "reward"], ["vae"], ["supervised"], ["priors"])] == [
        "autoencoder",
        "vae",
        "supervised",
        "plain",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["autoencodr"], "there is no loss 'autoencodr'; did you mean autoencoder"),
        (["xyz"], "there is no loss 'xyz'; choose from autoencoder,"),
        (["inverse:a"], "the weight 'a' is not a number"),
        (["inverse:-1"], "the weight must be a finite number"),
        (["inverse:nan"], "the weight must be a finite number"),
        (["inverse:1:x"], "the dimension 'x' is not a whole number"),
        (["inverse:1:0"], "the dimension must be at least 1, or -1"),
        (["inverse:1:2:3"], "expected name, name:weight or name:weight:dimension"),
        (["inverse", "forward:1"], "give all losses in one form"),
        (["inverse", "inverse"], "inverse is given twice"),
        (["autoencoder", "vae"], "autoencoder and vae reconstruct pictures in different ways"),
        (["perceptual"], "give vae as well"),
        (["supervised", "inverse"], "supervised is trained alone"),
        (["inverse:1:-1", "forward:1:4"], "the first loss has none before it"),
        (["inverse:1:2", "forward:1:3"], "the dimensions add up to 5, --state-dim is 4"),
        (["triplet:1:2", "inverse:1:2"], "triplet cannot have a part of the state of its own"),
    ],
)
def test_wrong_losses_are_refused_in_one_line(words, message):
    with pytest.raises(ValueError, match=r"^--losses") as refusal:
        parse_losses(words, 4)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
