"""What the experiments are made of: text, baselines, losses, optimizers, the character model, the training loop."""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from itertools import islice

import numpy as np
import pytest

import fastrnn
from fastrnn.experiments import text, training
from fastrnn.experiments.baselines import NGram
from fastrnn.experiments.character_model import CELLS, CharacterModel, _choose
from fastrnn.experiments.losses import BITS_PER_NAT, cross_entropy, softmax_cross_entropy
from fastrnn.experiments.optimizers import Adam, clip_global_norm
from fastrnn.experiments.text import Vocabulary

TEXT = "the cat sat on the mat, and that was that: the end.\n" * 3
VOCABULARY = Vocabulary(TEXT)


def generator(seed=0):
    return np.random.default_rng(seed)


def model(cell="lstm", hidden_size=4, num_layers=1, **options):
    defaults = {"embedding_size": 3, "seed": 0, "backend": "reference"}
    return CharacterModel(VOCABULARY, cell, hidden_size, num_layers, **(defaults | options))


# Text


def test_language_reference_is_long_and_repeats_no_paragraph():
    reference = text.language_reference()
    paragraphs = [paragraph.strip() for paragraph in reference.split("\n\n") if paragraph.strip()]
    assert len(reference) > 200_000
    assert len(set(paragraphs)) == len(paragraphs)
    assert 'The "with" statement' in reference


def test_without_repeats_keeps_the_first_of_equal_paragraphs():
    topics = ["Title\n\none\ntwo\n\n\n", "Other\n\n   one\ntwo\n\nthree\n", "three"]
    assert text.without_repeats(topics) == "Title\n\none\ntwo\n\n\nOther\n\nthree"


def test_vocabulary_numbers_the_characters_in_order():
    vocabulary = Vocabulary("banana…")
    assert vocabulary.characters == "abn…"
    assert vocabulary.encode("nab…").tolist() == [2, 0, 1, 3]
    assert vocabulary.decode(vocabulary.encode("banana…")) == "banana…"
    assert vocabulary.encode("").shape == (0,)


@pytest.mark.parametrize("unknown", ["c", " ", "\U0001f40d"])
def test_vocabulary_refuses_an_unknown_character(unknown):
    with pytest.raises(ValueError, match=f"^text: {unknown!r} is not in the vocabulary$"):
        Vocabulary("banana").encode(f"ban{unknown}na")


def test_split_holds_out_the_tail():
    vocabulary, train, held_out = text.split(TEXT, held_out=0.2)
    assert vocabulary.decode(train) + vocabulary.decode(held_out) == TEXT
    assert len(held_out) == round(0.2 * len(TEXT))


def test_batches_are_contiguous_streams():
    """Joined in time, the batches of one reading are B pieces of the text, and targets are one character ahead."""
    indices = np.arange(103)
    source = text.batches(indices, 4, 5, generator())
    for _ in range(3):
        reading = list(islice(source, 5))  # 102 pairs give 4 streams of 5 batches, and 2 characters to spare
        assert [batch.first for batch in reading] == [True, False, False, False, False]
        inputs = np.concatenate([batch.inputs for batch in reading])
        targets = np.concatenate([batch.targets for batch in reading])
        assert inputs.shape == (25, 4)
        assert np.array_equal(targets, inputs + 1)
        assert np.array_equal(inputs.T.ravel(), inputs[0, 0] + np.arange(100))
    assert len({next(text.batches(indices, 4, 5, generator(seed))).inputs[0, 0] for seed in range(30)}) == 3


def test_batches_may_take_the_whole_text_and_no_more():
    assert next(text.batches(np.arange(21), 4, 5, generator())).targets[-1, -1] == 20
    with pytest.raises(ValueError, match=r"^batch, steps: 4 texts of 5 steps need 21 characters, got 20$"):
        text.batches(np.arange(20), 4, 5, generator())


# Baselines


def kneser_ney(order, history, character, ngrams, vocabulary_size):
    """Its probability from the definition; `ngrams` is the Counter of the highest order."""
    if order == 0:
        return 1 / vocabulary_size
    n_of = Counter(dict(ngrams))
    ones, twos = [sum(n == k for n in n_of.values()) for k in (1, 2)]
    discount = ones / (ones + 2 * twos)
    after = {gram[-1]: n for gram, n in n_of.items() if gram[:-1] == history}
    continued = Counter(gram[1:] for gram in n_of)
    lower = kneser_ney(order - 1, history[1:], character, continued, vocabulary_size)
    if not after:
        return lower
    total = sum(after.values())
    return max(after.get(character, 0) - discount, 0) / total + discount * len(after) / total * lower


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngram_agrees_with_brute_force(order):
    letters = "abcdef"
    trained = "".join(generator(1).choice(list("abcde"), 40)) + "f"  # f has nothing after it
    scored = "afbecfdd"
    vocabulary = Vocabulary(letters)
    ngrams = Counter(trained[k : k + order] for k in range(len(trained) - order + 1))
    text_so_far, bits = "ab", []
    for character in scored:
        history = text_so_far[len(text_so_far) - order + 1 :]
        bits.append(-math.log2(kneser_ney(order, history, character, ngrams, len(letters))))
        text_so_far += character
    ngram = NGram(order, vocabulary.encode(trained), len(letters))
    found = ngram.bits_per_character(vocabulary.encode(scored), vocabulary.encode("ab"))
    assert found == pytest.approx(sum(bits) / len(bits), rel=1e-12)
    np.testing.assert_allclose(ngram.probabilities.sum(axis=-1), 1.0, rtol=1e-12)
    assert ngram.probabilities.min() > 0


def test_ngram_without_counts_of_one_still_makes_nothing_impossible():
    ngram = NGram(1, np.array([0, 0, 1, 1]), 3)
    np.testing.assert_allclose(ngram.probabilities, [1.5 / 4 + 1 / 12, 1.5 / 4 + 1 / 12, 1 / 12], rtol=1e-12)


def test_trigram_of_real_text_is_no_strawman():
    """It beats fixed interpolation weights, even the best ones for the very text that is judged."""
    vocabulary, train, held_out = text.split(text.language_reference())
    V, context = len(vocabulary), train[-2:]
    bits = [NGram(order, train, V).bits_per_character(held_out, context) for order in (1, 2, 3)]
    both = np.concatenate([context, held_out])
    histories = [both[2:], both[1:-1], both[:-2]]
    plain = [np.full(len(held_out), 1 / V)]
    for order in (1, 2, 3):
        keys = sum(train[k : len(train) - order + 1 + k] * V ** (order - 1 - k) for k in range(order))
        wanted = sum(histories[k] * V**k for k in range(order))
        joint = np.bincount(keys, minlength=V**order)
        totals = joint.reshape(-1, V).sum(axis=1)
        plain.append(joint[wanted] / np.maximum(totals[wanted // V], 1))
    weights = np.full(4, 0.25)
    for _ in range(50):  # expectation maximisation
        shares = weights[:, None] * plain
        weights = (shares / shares.sum(axis=0)).mean(axis=1)
    assert bits[2] < -np.log2(weights @ plain).mean()
    assert bits[0] > bits[1] + 1 > bits[2] + 1.5


# Losses


def test_softmax_cross_entropy_is_the_mean_negative_logarithm():
    logits, targets = generator().standard_normal((6, 5)), np.array([0, 4, 2, 2, 1, 3])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(probabilities[np.arange(6), targets])
    np.testing.assert_allclose(cross_entropy(logits, targets), expected, rtol=1e-12)
    assert softmax_cross_entropy(logits.copy(), targets)[0] == pytest.approx(expected.mean(), rel=1e-12)


def test_softmax_cross_entropy_gradient_agrees_with_finite_differences():
    logits, targets = generator().standard_normal((6, 5)), np.array([0, 4, 2, 2, 1, 3])
    _, gradient = softmax_cross_entropy(logits.copy(), targets)
    np.testing.assert_allclose(gradient, differences(lambda: cross_entropy(logits, targets).mean(), logits), atol=1e-9)


def test_softmax_cross_entropy_of_huge_logits_is_finite():
    logits = np.array([[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4]], np.float32)
    nats, gradient = softmax_cross_entropy(logits.copy(), np.array([0, 0]))
    assert nats == 1e4
    assert gradient.dtype == np.float32
    np.testing.assert_array_equal(gradient, [[0, 0, 0], [-0.5, 0, 0.5]])
    np.testing.assert_array_equal(cross_entropy(logits, np.array([0, 0])), [0, 2e4])


def test_bits_and_nats():
    assert math.log(8) * BITS_PER_NAT == pytest.approx(3)


def differences(loss, array, step=1e-5):
    """The gradient of `loss()` with respect to `array`, by central differences."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + step
        above = loss()
        array[index] = value - step
        below = loss()
        array[index] = value
        gradient[index] = (above - below) / (2 * step)
    return gradient


# Optimizers


def test_clipping_scales_all_gradients_to_the_limit():
    gradients = {"a": np.array([[3.0, 0.0]]), "b": np.array([-4.0, 12.0])}
    assert clip_global_norm(gradients, 6.5) == 13.0
    huge = {"w": np.full((2, 2), 1e25, np.float32)}
    assert clip_global_norm(huge, 1.0) == pytest.approx(2e25)
    np.testing.assert_allclose(huge["w"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(gradients["a"], [[1.5, 0.0]])
    np.testing.assert_allclose(gradients["b"], [-2.0, 6.0])


@pytest.mark.parametrize("limit", [13.0, 100.0])
def test_clipping_leaves_small_gradients_alone(limit):
    gradients = {"a": np.array([[3.0, 0.0]], np.float32), "b": np.array([-4.0, 12.0], np.float32)}
    assert clip_global_norm(gradients, limit) == 13.0
    np.testing.assert_array_equal(gradients["b"], [-4.0, 12.0])


def random_steps(count=20):
    """Initial parameters, and gradients of very different sizes."""
    random = generator(3)
    shapes = {"a": (3, 4), "b": (5,)}
    parameters = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    gradients = [{n: random.standard_normal(s) * 10.0 ** random.integers(-6, 3) for n, s in shapes.items()}]
    return parameters, gradients + [
        {n: g * random.uniform(-1, 2) for n, g in gradients[0].items()} for _ in range(count)
    ]


def test_adam_is_the_published_algorithm():
    parameters, all_gradients = random_steps()
    theta = {name: value.copy() for name, value in parameters.items()}
    alpha, beta1, beta2, epsilon = 0.01, 0.8, 0.95, 1e-7
    m = {name: 0.0 for name in theta}
    v = {name: 0.0 for name in theta}
    adam = Adam(parameters, alpha, beta1=beta1, beta2=beta2, eps=epsilon)
    for t, gradients in enumerate(all_gradients, 1):
        for name, g in gradients.items():
            m[name] = beta1 * m[name] + (1 - beta1) * g
            v[name] = beta2 * v[name] + (1 - beta2) * g**2
            m_hat = m[name] / (1 - beta1**t)
            v_hat = v[name] / (1 - beta2**t)
            theta[name] = theta[name] - alpha * m_hat / (np.sqrt(v_hat) + epsilon)
        adam.step(gradients)
        for name in theta:
            np.testing.assert_allclose(parameters[name], theta[name], rtol=1e-12)


def test_adam_agrees_with_torch():
    torch = pytest.importorskip("torch")
    parameters, all_gradients = random_steps()
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in parameters.items()}
    witness = torch.optim.Adam(tensors.values(), lr=0.02)
    adam = Adam(parameters, 0.02)
    for gradients in all_gradients:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(gradients[name])
        witness.step()
        adam.step(gradients)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(parameters[name], tensor.detach().numpy(), rtol=1e-12)


def test_adam_updates_in_place_and_keeps_float32():
    parameter = np.ones((2, 3), np.float32)
    adam = Adam({"a": parameter}, 0.5)
    adam.step({"a": np.full((2, 3), 7.0, np.float32)})
    np.testing.assert_allclose(parameter, 0.5)
    assert adam._means["a"].dtype == adam._squares["a"].dtype == np.float32


# The character model


@pytest.mark.parametrize("cell", CELLS)
def test_model_gradients_agree_with_finite_differences(cell):
    network = model(cell, num_layers=2, dtype="float64")
    random = generator(5)
    inputs, targets = random.integers(0, 4, (5, 3)), random.integers(0, len(VOCABULARY), (5, 3))
    _, state = network.logits(random.integers(0, len(VOCABULARY), (4, 3)))

    def loss():
        logits, _ = network.logits(inputs, state)
        return cross_entropy(logits.reshape(15, -1), targets.ravel()).mean()

    nats, gradients, _ = network.gradients(inputs, targets, state)
    assert nats == pytest.approx(loss(), rel=1e-12)
    assert gradients.keys() == network.parameters.keys()
    for name, parameter in network.parameters.items():
        np.testing.assert_allclose(gradients[name], differences(loss, parameter), atol=1e-9, err_msg=name)


def test_model_gradients_with_dropout_agree_with_finite_differences():
    """The same elements are dropped again when the generators are set back."""
    network = model(num_layers=2, dtype="float64", dropout=0.4)
    random = generator(5)
    inputs, targets = random.integers(0, 4, (5, 3)), random.integers(0, len(VOCABULARY), (5, 3))
    generators = [network._dropout_generator.bit_generator, network.layer._generator.bit_generator]
    states = [each.state for each in generators]

    def loss_and_gradients():
        for each, state in zip(generators, states, strict=True):
            each.state = state
        return network.gradients(inputs, targets)

    _, gradients, _ = loss_and_gradients()
    for name, parameter in network.parameters.items():
        expected = differences(lambda: loss_and_gradients()[0], parameter)
        np.testing.assert_allclose(gradients[name], expected, atol=1e-9, err_msg=name)
    assert network.gradients(inputs, targets)[0] != network.gradients(inputs, targets)[0]
    np.testing.assert_array_equal(network.logits(inputs)[0], network.logits(inputs)[0])


def test_dropout_drops_its_share_and_keeps_the_mean():
    mask = model(dropout=0.25)._mask(np.zeros((100, 100, 4), np.float32))
    assert mask.dtype == np.float32
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.75)}
    assert mask.mean() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, math.nan])
def test_a_dropout_that_drops_all_is_refused(dropout):
    with pytest.raises(ValueError, match=r"^dropout: expected a number from 0 to below 1, got "):
        model(dropout=dropout)


@pytest.mark.parametrize("cell", CELLS)
def test_model_computes_in_float32(cell):
    network = model(cell, dropout=0.5)
    inputs = VOCABULARY.encode(TEXT[:12]).reshape(4, 3)
    logits, _ = network.logits(inputs)
    _, gradients, _ = network.gradients(inputs, inputs)
    assert logits.dtype == np.float32
    assert {gradient.dtype for gradient in gradients.values()} == {np.dtype(np.float32)}
    assert network.num_parameters == sum(gradient.size for gradient in gradients.values())


def test_state_is_carried_from_batch_to_batch_and_reset_at_a_new_reading():
    network = model(dtype="float64")
    indices = VOCABULARY.encode(TEXT[:31])
    losses = [nats for nats, _ in islice(network.gradients_over(text.batches(indices, 2, 5, generator())), 6)]
    streams = indices[:30].reshape(2, 15).T, indices[1:31].reshape(2, 15).T
    whole = cross_entropy(network.logits(streams[0])[0].reshape(30, -1), streams[1].ravel()).reshape(3, 10)
    np.testing.assert_allclose(losses, np.tile(whole.mean(axis=1), 2), rtol=1e-12)


@pytest.mark.parametrize("context", [1, 7])
def test_held_out_bits_are_those_of_one_pass_over_the_text(context):
    network = model(dtype="float64")
    indices = VOCABULARY.encode(TEXT * 4)
    logits, _ = network.logits(indices[:-1, None])
    nats = cross_entropy(logits[:, 0], indices[1:])[context - 1 :]
    found = network.bits_per_character(indices[context:], indices[:context])
    assert len(indices) > 600  # more than is scored at once
    assert found == pytest.approx(nats.mean() / math.log(2), rel=1e-12)


def test_a_sample_continues_the_text_and_is_the_same_for_the_same_seed():
    network = model()
    samples = [network.sample(40, start="the ", seed=seed) for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]
    assert len(samples[0]) == 40
    assert set(samples[0]) <= set(TEXT)
    assert network.sample(0) == ""
    with pytest.raises(ValueError, match=r"^start: expected at least one character$"):
        network.sample(1, start="")


def test_a_sample_at_temperature_zero_takes_the_likeliest_of_each():
    network = model(dtype="float64")
    sample = "the "
    for _ in range(20):
        logits, _ = network.logits(VOCABULARY.encode(sample)[:, None])
        sample += VOCABULARY.characters[logits[-1, 0].argmax()]
    assert network.sample(20, start="the ", temperature=0) == sample[4:]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_characters_are_drawn_with_their_probabilities(temperature):
    logits, random = np.array([0.3, -5000.0, 1.2, -0.7], np.float32), generator(8)
    draws = 20_000
    found = np.bincount([_choose(logits, temperature, random) for _ in range(draws)], minlength=4) / draws
    expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    np.testing.assert_allclose(found, expected, atol=5 * math.sqrt(0.25 / draws))
    assert found[1] == 0


@pytest.mark.parametrize("cell", CELLS)
def test_a_saved_model_comes_back_the_same(cell, tmp_path):
    network = model(cell, num_layers=2, seed=4, dropout=0.1)
    path = tmp_path / "model"
    network.save(path)
    network.save(path)  # over the first
    loaded = CharacterModel.load(path, backend="reference")
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert loaded.options == network.options
    assert loaded.vocabulary.characters == VOCABULARY.characters
    for name, parameter in network.parameters.items():
        np.testing.assert_array_equal(loaded.parameters[name], parameter)
    assert loaded.sample(30, seed=0) == network.sample(30, seed=0)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    model(seed=1).save(path)
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space left"):
        model(seed=2).save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.npz"]
    assert path.read_bytes() == before


def foreign_files(path):
    """Files that are no saved model, each under the name that says why."""
    saved = path / "saved.npz"
    model().save(saved)
    with np.load(saved) as archive:
        arrays = dict(archive)
    header = json.loads(str(arrays.pop("fastrnn")))

    def archive(name, header=header, **other):
        np.savez(path / name, fastrnn=np.array(json.dumps(header)), **(arrays | other))

    fastrnn.LSTM(2, 3, backend="reference").save(path / "a layer.npz")
    np.savez(path / "no header.npz", **arrays)
    np.savez(path / "header is no JSON.npz", fastrnn=np.array("{"), **arrays)
    np.savez(path / "pickled.npz", fastrnn=np.array([{}], object))
    np.save(path / "an array.npy", arrays["embedding"])
    archive("header is a list.npz", [1])
    archive("later format.npz", header | {"format": 2})
    archive("no vocabulary.npz", {name: value for name, value in header.items() if name != "vocabulary"})
    archive("vocabulary is a number.npz", header | {"vocabulary": 3})
    archive("unknown option.npz", header | {"options": header["options"] | {"colour": 1}})
    archive("unknown cell.npz", header | {"options": header["options"] | {"cell": "qrnn"}})
    archive("one parameter more.npz", more=arrays["embedding"])
    archive("wrong shape.npz", embedding=arrays["embedding"][:1])
    archive("wrong type.npz", embedding=arrays["embedding"].astype(np.float64))
    content = saved.read_bytes()
    (path / "half.npz").write_bytes(content[: len(content) // 2])
    (path / "spoilt.npz").write_bytes(content[:900] + bytes(byte ^ 255 for byte in content[900:1000]) + content[1000:])
    encrypted = bytearray(content)
    for entry in re.finditer(b"PK\x01\x02", content):
        encrypted[entry.start() + 8] |= 1
    (path / "encrypted.npz").write_bytes(encrypted)
    np.savez_compressed(path / "deflated.npz", fastrnn=np.array(json.dumps(header)), **arrays)
    deflated = bytearray((path / "deflated.npz").read_bytes())
    start = deflated.index(b"head_weight.npy") + 40
    deflated[start : start + 40] = bytes(40)
    (path / "deflated.npz").write_bytes(deflated)
    (path / "empty.npz").write_bytes(b"")
    (path / "text.npz").write_text(TEXT)
    saved.unlink()
    return sorted(path.iterdir())


def test_other_files_are_refused(tmp_path):
    files = foreign_files(tmp_path)
    assert len(files) == 20
    for file in files:
        with pytest.raises(ValueError, match=r"^path: expected a saved character model, got "):
            CharacterModel.load(file, backend="reference")


def test_an_unknown_cell_is_refused():
    with pytest.raises(ValueError, match=r"^cell: expected lstm, gru, rnn, got 'qrnn'$"):
        model("qrnn")


# Training


def trained(updates=60, seed=0, learning_rate=0.02):
    network = model(hidden_size=12, seed=seed)
    source = network.gradients_over(text.batches(VOCABULARY.encode(TEXT), 4, 8, generator(seed)))
    options = {"updates": updates, "learning_rate": learning_rate, "clip": 1.0}
    return network, list(training.train(network.parameters, source, **options))


def test_training_learns():
    network, progress = trained(updates=150)
    assert [one.update for one in progress] == list(range(1, 151))
    assert [one.fraction for one in progress] == [update / 150 for update in range(1, 151)]
    assert progress[0].loss == pytest.approx(math.log(len(VOCABULARY)), rel=0.1)
    assert progress[-1].loss < 0.4 * progress[0].loss
    indices = VOCABULARY.encode(TEXT)
    assert network.bits_per_character(indices[20:], indices[:20]) < NGram(
        1, indices, len(VOCABULARY)
    ).bits_per_character(indices[20:], indices[:20])


def test_training_is_the_same_for_the_same_seed():
    (one, first), (two, second), (other, _) = trained(), trained(), trained(seed=1)
    assert [progress.loss for progress in first] == [progress.loss for progress in second]
    for name, parameter in one.parameters.items():
        np.testing.assert_array_equal(parameter, two.parameters[name])
    assert not np.array_equal(one.embedding, other.embedding)


def test_training_stops_when_the_time_is_over(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    parameters = {"a": np.ones(2)}
    source = ((1.0, {"a": np.ones(2)}) for _ in range(100))
    progress = list(training.train(parameters, source, seconds=5, learning_rate=0.1, clip=1.0))
    assert [one.seconds for one in progress] == [1, 2, 3, 4, 5]
    assert [one.fraction for one in progress] == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_the_learning_rate_rises_and_falls():
    rates = [training.rate(k / 1000) for k in range(1001)]
    peak = int(np.argmax(rates))
    assert rates[0] == pytest.approx(0.1)
    assert rates[peak] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.0)
    assert peak < 100
    assert np.all(np.diff(rates[: peak + 1]) > 0)
    assert np.all(np.diff(rates[peak:]) < 0)


def test_gradients_are_clipped_and_their_norm_is_reported():
    """Clipped, the two are equal, and then each of Adam's steps is as long as the learning rate."""
    parameters = {"a": np.zeros(4)}
    source = iter([(1.0, {"a": np.full(4, 5.0)}), (1.0, {"a": np.full(4, 0.5)})])
    progress = list(training.train(parameters, source, updates=2, learning_rate=0.1, clip=1.0))
    assert [one.gradient_norm for one in progress] == [10.0, 1.0]
    np.testing.assert_allclose(parameters["a"], -0.1 * (training.rate(0.0) + training.rate(0.5)), rtol=1e-6)


@pytest.mark.parametrize(("loss", "gradient"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_training_ends_where_numbers_do(loss, gradient):
    parameters = {"a": np.ones(2)}
    source = iter([(loss, {"a": np.array([gradient, 1.0])})])
    with pytest.raises(FloatingPointError, match=r"^update 1: loss "):
        list(training.train(parameters, source, updates=5, learning_rate=0.1, clip=1.0))
    np.testing.assert_array_equal(parameters["a"], 1.0)


@pytest.mark.parametrize("budget", [{}, {"seconds": 1.0, "updates": 1}])
def test_training_takes_one_budget(budget):
    with pytest.raises(ValueError, match=r"^seconds, updates: expected one of them, got "):
        list(training.train({"a": np.ones(2)}, [], **budget, learning_rate=0.1, clip=1.0))


# NumPy's matrix products


def test_blas_gets_its_threads_back_when_the_last_of_several_uses_ends():
    from fastrnn import blas

    functions = blas._functions()
    if functions is None:
        pytest.skip("NumPy's BLAS has no function for it")
    setter, getter = functions
    before = getter()
    setter(2)
    several = getter()
    try:
        first, second = blas.one_thread(), blas.one_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert getter() == 1
        second.__exit__(None, None, None)
        assert getter() == several
    finally:
        setter(before)


def test_blas_is_brought_to_one_thread():
    """In a process of its own: there is no way back in this one. NumPy from PyPI has OpenBLAS; others may differ."""
    code = """
import ctypes, numpy
from fastrnn.blas import use_one_thread
getter = getattr(ctypes.CDLL(numpy.linalg._umath_linalg.__file__), "scipy_openblas_get_num_threads64_", None)
print(use_one_thread(), getter and getter())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found[1] in ("1", "None")
    assert found[0] == "True" or found[1] == "None"
