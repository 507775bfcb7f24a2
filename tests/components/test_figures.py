"""Figures of judged clips: differences in pairs, and which sampling is advised by them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from csm_components.evaluate.figures import JudgedSentence, figures_of, wer_difference
from csm_components.evaluate.sampling import Tried, advice
from csm_components.evaluate.sentences import Sentence
from csm_components.evaluate.silence import Silence
from csm_components.evaluate.verdicts import ClipVerdict
from csm_components.evaluate.wer import Errors
from csm_serving.wire.protocol import SamplingOptions


def judged(name: int, errors: int, words: int) -> JudgedSentence:
    sentence = Sentence(turn=f"t{name}", conversation="c", text="text", speaker=0, own=True, context=None)
    silence = Silence(share=0.0, leading=0.0, trailing=0.0, longest_pause=0.0)
    verdict = ClipVerdict(heard="text", mos=None, nearest=0, similarity={0: 0.9}, silence=silence, seconds=1.0)
    counted = Errors(words=words, substitutions=errors, deletions=0, insertions=0, steps=())
    return JudgedSentence(sentence=sentence, wav=Path("a.wav"), ended=True, verdict=verdict, errors=counted)


@pytest.mark.parametrize("seed", range(40))
def test_a_difference_is_that_of_the_rates_and_pairs_all_draws_of_a_sentence(seed: int) -> None:
    rng = random.Random(seed)
    names, draws = range(rng.randint(1, 12)), rng.randint(1, 4)
    words = {name: rng.randint(1, 9) for name in names}

    def spoken(most: int) -> list[JudgedSentence]:
        return [
            judged(name, rng.randint(0, min(most, words[name])), words[name]) for _ in range(draws) for name in names
        ]

    mine, its = spoken(2), spoken(9)
    others = [judged(name + len(words), 1, 3) for name in names]
    difference, (low, high) = wer_difference(rng.sample(mine, len(mine)) + others, its)
    assert difference == pytest.approx(figures_of(mine).wer - figures_of(its).wer)
    assert low - 1e-9 <= difference <= high + 1e-9
    assert wer_difference(its, its) == (0.0, (0.0, 0.0))
    each_sentence_alike = [judged(name, words[name] - 1, words[name]) for name in names for _ in range(draws)]
    worse_by_one = [judged(name, words[name], words[name]) for name in names for _ in range(draws)]
    assert wer_difference(worse_by_one, each_sentence_alike)[0] == pytest.approx(len(names) / sum(words.values()))


@pytest.mark.parametrize("seed", range(40))
def test_a_setting_is_advised_when_it_is_shown_to_be_better(seed: int) -> None:
    rng = random.Random(seed)
    figures = figures_of([judged(0, 1, 4)])
    tried = [
        Tried(
            sampling=SamplingOptions(temperature=n / 10, depth_temperature=0.5, top_k=50, guidance=1.5),
            figures=replace(figures, wer=rng.random()),
            difference=0.0,
            difference_interval=(-1.0, rng.uniform(-0.5, 0.5)),
        )
        for n in range(1 + seed % 5)
    ]
    better = [each for each in tried[1:] if each.difference_interval[1] < 0]
    line = advice(tried)
    if better:
        best = min(better, key=lambda each: each.figures.wer)
        assert f'"temperature": {best.sampling.temperature}' in line
    else:
        assert "keep it" in line
