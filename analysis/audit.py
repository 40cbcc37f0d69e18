"""What the paper's published tables support: the paired tests behind its sentences, where it contradicts itself, and what stays open.

Everything is computed from the numbers in `data_manifests/scores`, which are printed with one decimal. Nothing is drawn at random.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from analysis.association import CONFIDENCE, fisher_interval, holm
from analysis.report import Report, Table
from data_manifests.published import (
    known_disagreements,
    language_groups,
    model_name,
    published_tables,
    source,
    statements,
)

MODELS = ("llama3", "qwen2.5")
ALPHA = 0.05
TOLERANCE, GAIN_TOLERANCE = 0.1, 0.15
"""Largest differences that rounding excuses, in percent points, all being printed with one decimal, so that each is off by up to 0.05:
of a printed value and one recomputed from printed values 0.1; of a gain 0.15, since it is a mean of differences of two of them."""

_SLOTS = {
    "supervised": "supervised",
    "transfer": "transfer",
    "aligned": "aligned",
    "not_aligned": "transfer, not aligned",
    "non_latin": "transfer, non-Latin script",
}
_TRANSLATION = {
    "supervised": "supervised, both directions",
    "to_english": "transfer to English",
    "from_english": "transfer from English",
    "transfer": "transfer, both directions",
}
_POSSIBLE_COUNTS = (15, 20, 25)
"""Languages that Figure 1b may show: 15 transfer languages in section 4.1, all 20 of slot filling, 25 transfer languages in section 2."""


def audit() -> Report:
    """The paper's claims tested on its own tables, as a report of the kind `audit`.

    Tables, in percent points of the metric: `gains` (a row for each task, metric, model and group of languages: mean gain of alignment
    over fine-tuning, sample SD, 95 % interval, paired tests), `aligned` (the gain on the aligned languages against that on the
    other transfer languages, a model a row), `languages` (the gains themselves), `spread` (printed against recomputed
    SD of the gains by placement of the loss, and how far two SDs would have to go together to differ), `figure_1b` (p of the printed
    correlations for the possible numbers of languages), `checks` (every average that can be recomputed, with the difference that
    rounding excuses: 0.1 points, of a gain 0.15; a claim that can be read in several ways has a row for each), `disagreements`
    (the rows of the claims that no reading fits), `open` (what cannot be recomputed). The facts `checked` and `disagreeing` count
    claims.
    """
    languages = _gains_by_language()
    gains = _gains(languages)
    spread, figure = _spread(languages), _figure_1b()
    checks = _checks(languages)
    failed = checks[~checks["fits"]].reset_index(drop=True)
    between = _between(languages)
    return Report(
        "audit",
        "The paper's claims on its own tables",
        {
            "gains": Table(gains, _GAINS_CAPTION, _GAINS_COLUMNS),
            "aligned": Table(between, _BETWEEN_CAPTION, _BETWEEN_COLUMNS),
            "spread": Table(spread, _SPREAD_CAPTION, _SPREAD_COLUMNS),
            "figure_1b": Table(figure, _FIGURE_CAPTION, _FIGURE_COLUMNS),
            "disagreements": Table(failed, f"Where the source contradicts itself: the claims that no reading fits. {_CHECKS_NOTE}", _FAILED_COLUMNS, digits=2),
            "open": Table(_open(), _OPEN_CAPTION, _OPEN_COLUMNS),
            "checks": Table(checks, f"All comparisons of published numbers. {_CHECKS_NOTE}", _CHECKS_COLUMNS, digits=2),
            "languages": Table(languages, _LANGUAGES_CAPTION, _LANGUAGES_COLUMNS, digits=1),
        },
        _remarks(gains, between, spread, figure, checks),
        {
            "source": source(),
            "alpha": ALPHA,
            "confidence": CONFIDENCE,
            "tolerance": TOLERANCE,
            "gain_tolerance": GAIN_TOLERANCE,
            "known_disagreements": list(known_disagreements()),
            "checked": _claims(checks),
            "disagreeing": _claims(failed),
        },
    )  # fmt: skip


# Gains


def paired_tests(differences: Float[np.ndarray, " pair"]) -> dict[str, float]:
    """Mean, spread and tests of paired differences; two-sided p-values.

    Args:
        differences: at most 16 or so, as all 2^n assignments of signs are enumerated.

    Returns:
        `mean`, `sd` (ddof = 1), `low` and `high` (95 % interval of Student's t), `t_p` (paired t-test), `wilcoxon_p` (signed ranks,
        zeros dropped and ties given mean ranks as in Wilcoxon 1945, exact over all signs), `sign_flip_p` (exact permutation of the
        signs of the differences, Fisher 1935). A p that is undefined, as where all differences are 0, is NaN.
    """
    student = stats.ttest_1samp(differences, 0)
    interval = student.confidence_interval(CONFIDENCE)
    moved = differences[differences != 0]
    ranks = np.sign(moved) * stats.rankdata(np.abs(moved))
    return {
        "mean": float(differences.mean()),
        "sd": float(differences.std(ddof=1)),
        "low": float(interval.low),
        "high": float(interval.high),
        "t_p": float(student.pvalue),
        "wilcoxon_p": sign_flip_p(ranks),
        "sign_flip_p": sign_flip_p(differences),
    }


def sign_flip_p(values: Float[np.ndarray, " pair"]) -> float:
    """Share of the 2^n assignments of signs whose |sum| is at least the observed one; NaN of no values."""
    if not len(values):
        return np.nan
    signs = 1 - 2 * ((np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1)
    tie = 1e-9 * np.abs(values).sum()  # sums of decimals differ in their last bits by the order of the signs
    return float(np.mean(np.abs(signs @ values) >= abs(values.sum()) - tie))


def _gains_by_language() -> pd.DataFrame:
    """Change of every printed score through alignment: task, metric, model, unit (language or direction), base, other, difference."""
    rows = [
        {"task": task, "table": number, "metric": metric, "model": model, "unit": unit, "base": base, "other": other}
        for task, number, metrics in (("slots", "11", ("F1",)), ("translation", "12", ("BLEU", "COMET")))
        for metric in metrics
        for model in MODELS
        for unit, base, other in _pairs(number, model, metric)
    ]
    frame = pd.DataFrame(rows)
    # The difference of two values with one decimal has one decimal: what binary fractions add would break ties among ranks.
    return frame.assign(difference=(frame["other"] - frame["base"]).round(1) + 0.0)


def _pairs(number: str, model: str, metric: str) -> list[tuple[str, float, float]]:
    table = published_tables()[number]
    base, other = (table.row(model, system, metric).values for system in ("sft", "align"))
    return [(unit, base[unit], other[unit]) for unit in table.columns]


def _units(task: str) -> dict[str, tuple[str, ...]]:
    """Group -> the languages or directions in it."""
    groups = language_groups(task)
    if task == "slots":
        return {**groups, "not_aligned": tuple(code for code in groups["transfer"] if code not in groups["aligned"])}
    to, from_ = (
        {role: tuple(form.format(code) for code in groups[role]) for role in ("supervised", "transfer")}
        for form in ("{}-eng_Latn", "eng_Latn-{}")
    )
    return {
        "supervised": to["supervised"] + from_["supervised"],
        "to_english": to["transfer"],
        "from_english": from_["transfer"],
        "transfer": to["transfer"] + from_["transfer"],
    }


def _of_group(languages: pd.DataFrame, task: str, metric: str, model: str, group: str) -> Float[np.ndarray, " unit"]:
    chosen = languages[(languages["task"] == task) & (languages["metric"] == metric) & (languages["model"] == model)]
    return chosen.set_index("unit")["difference"].loc[list(_units(task)[group])].to_numpy()


def _gains(languages: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for task, metric, groups in (
        ("slots", "F1", _SLOTS),
        ("translation", "BLEU", _TRANSLATION),
        ("translation", "COMET", _TRANSLATION),
    ):
        for model in MODELS:
            for group in groups:
                found = _of_group(languages, task, metric, model, group)
                about = {"task": task, "metric": metric, "model": model, "group": group, "n": len(found)}
                rows.append({**about, **paired_tests(found)})
    frame = pd.DataFrame(rows)
    families = frame.groupby(["task", "metric"], sort=False)["t_p"]
    return frame.assign(holm_p=families.transform(lambda p: holm(p.to_numpy())))


# Gains of the aligned languages against the others


def between_groups(first: Float[np.ndarray, " unit"], second: Float[np.ndarray, " other"]) -> dict[str, float]:
    """How far the means of two groups are apart; two-sided p-values.

    Args:
        first, second: at least two values each, few enough that all ways of choosing the first group can be enumerated.

    Returns:
        `difference` (first - second), `low` and `high` (95 % interval) and `welch_p` of the t-test without equal variances
        (Welch 1947); `permutation_p`, the share of all `groupings` of the values into groups of these sizes whose means are at least
        as far apart (Fisher and Pitman's test).
    """
    welch = stats.ttest_ind(first, second, equal_var=False)
    interval = welch.confidence_interval(CONFIDENCE)
    values = np.concatenate([first, second])
    groups = np.array(list(combinations(range(len(values)), len(first))))
    apart = np.abs(
        values[groups].sum(axis=1) - len(first) * values.mean()
    )  # proportional to the difference of the means
    tie = 1e-9 * np.abs(values).sum()
    return {
        "difference": float(first.mean() - second.mean()),
        "low": float(interval.low),
        "high": float(interval.high),
        "welch_p": float(welch.pvalue),
        "permutation_p": float(np.mean(apart >= apart[0] - tie)),  # the first grouping is the observed one
        "groupings": len(groups),
    }


def _between(languages: pd.DataFrame) -> pd.DataFrame:
    """Whether the aligned languages gain more than the other transfer languages: a model a row."""
    rows = []
    for model in MODELS:
        aligned, others = (_of_group(languages, "slots", "F1", model, group) for group in ("aligned", "not_aligned"))
        about = {"model": model, "n_aligned": len(aligned), "n_others": len(others)}
        means = {"aligned": float(aligned.mean()), "others": float(others.mean())}
        rows.append({**about, **means, **between_groups(aligned, others)})
    return pd.DataFrame(rows)


# Spread of the gains by placement of the loss


def _spread(languages: pd.DataFrame) -> pd.DataFrame:
    """Printed and recomputed SD of the gains; of slots also what a test of equal SDs against the middle would need."""
    printed = published_tables()["3, 13"]
    known = {
        ("slots", "align-middle"): _of_group(languages, "slots", "F1", "llama3", "transfer"),
        ("translation", "align-middle"): _of_group(languages, "translation", "COMET", "llama3", "from_english"),
    }
    rows = []
    for task, column in (("slots", "slots-transfer-sd"), ("translation", "translation-transfer-sd")):
        count = len(_units(task)["transfer" if task == "slots" else "from_english"])
        middle = printed.row("llama3", "align-middle").values[column]
        for system in ("align-bottom", "align-middle", "align-top"):
            sd = printed.row("llama3", system).values[column]
            differences = known.get((task, system))
            recomputed = np.nan if differences is None else float(differences.std(ddof=1))
            against = (
                unequal_spread(sd, middle, count)
                if task == "slots" and system != "align-middle"
                else dict.fromkeys(("f", "f_p", "needed_r"), np.nan)
            )
            rows.append(
                {"task": task, "placement": system, "n": count, "printed": sd, "recomputed": recomputed, **against}
            )
    return pd.DataFrame(rows)


def unequal_spread(sd: float, other: float, n: int) -> dict[str, float]:
    """Whether two sample SDs over the same n languages differ, as far as can be told without the languages' values.

    Returns:
        `f`: ratio of the variances, the larger above. `f_p`: two-sided p were the samples independent. `needed_r`: they are
        not, and the test for paired samples (Pitman 1939; Morgan 1939), t = (F - 1) sqrt(n - 2) / (2 sqrt(F (1 - r^2))), depends on
        how the two go together: the |r| from which it reaches p < 0.05.
    """
    f = (max(sd, other) / min(sd, other)) ** 2
    reached = (f - 1) * np.sqrt(n - 2) / (2 * np.sqrt(f)) / stats.t.isf(ALPHA / 2, n - 2)
    return {
        "f": f,
        "f_p": float(min(1, 2 * stats.f.sf(f, n - 1, n - 1))),
        "needed_r": float(np.sqrt(max(0, 1 - reached**2))),
    }


# The correlations of Figure 1b


def _figure_1b() -> pd.DataFrame:
    """p and interval of each printed correlation, for each number of languages that the figure may show.

    `p_low` and `p_high` are the p-values of the correlations that round to the printed one; `holds` is `yes` or `no` where all of them
    are on one side of the stated level, else `within rounding`.
    """
    level = statements()["figure1b-p"].value
    rows = []
    for model in MODELS:
        r = statements()[f"figure1b-{model}"].value
        for n in _POSSIBLE_COUNTS:
            low, high = fisher_interval(r, n)
            p_low, p, p_high = (correlation_p(r + shift, n) for shift in (0.005, 0, -0.005))
            holds = "yes" if p_high < level else "no" if p_low >= level else "within rounding"
            row = {"model": model, "r": r, "n": n, "low": low, "high": high, "p": p, "p_low": p_low, "p_high": p_high}
            rows.append({**row, "holds": holds})
    return pd.DataFrame(rows)


def correlation_p(r: float, n: int) -> float:
    """Two-sided p of a Pearson r over n pairs, t = r sqrt((n - 2) / (1 - r^2)) with n - 2 degrees of freedom."""
    return float(2 * stats.t.sf(abs(r) * np.sqrt((n - 2) / (1 - r**2)), n - 2))


# Printed against recomputed


def _checks(languages: pd.DataFrame) -> pd.DataFrame:
    """Claim, one reading of it, where it stands, printed and recomputed value, a note, how far rounding excuses, whether the two
    agree so far, and whether they do so under any reading of the claim.
    """
    columns = ["claim", "reading", "where", "printed", "recomputed", "note"]
    gains = pd.DataFrame(_claimed_gains(languages), columns=columns).assign(tolerance=GAIN_TOLERANCE)
    others = pd.DataFrame([*_averages(), *_single_claims(languages), *_repeated_rows()], columns=columns)
    frame = pd.concat([gains, others.assign(tolerance=TOLERANCE)], ignore_index=True)
    difference = (frame["printed"] - frame["recomputed"]).abs()
    frame = frame.assign(agrees=difference <= frame["tolerance"] + 1e-9)
    return frame.assign(fits=frame.groupby(["claim", "where"])["agrees"].transform("any"))


def _claims(checks: pd.DataFrame) -> int:
    """Claims, each counted once, however it can be read."""
    return len(checks[["claim", "where"]].drop_duplicates())


def _averages() -> list[tuple[str, str, str, float, float, str]]:
    """Table 2 from Tables 11 and 12."""
    table = published_tables()["2"]
    rows = []
    for model in MODELS:
        for system in ("sft", "align"):
            printed = table.row(model, system).values
            for task, number, metric, groups in (
                ("slots", "11", "F1", ("supervised", "transfer", "aligned")),
                ("translation", "12", "BLEU", ("supervised", "to_english", "from_english")),
                ("translation", "12", "COMET", ("supervised", "to_english", "from_english")),
            ):
                values = published_tables()[number].row(model, system, metric).values
                for group in groups:
                    mean = float(np.mean([values[unit] for unit in _units(task)[group]]))
                    column = f"{task}-{group.replace('_', '-')}-{metric.lower()}"
                    claim = f"{model_name(model)} {system}, {(_SLOTS if task == 'slots' else _TRANSLATION)[group]}, {metric}"
                    rows.append((claim, "", f"Table 2 from {number}", printed[column], mean, ""))
    return rows


def _claimed_gains(languages: pd.DataFrame) -> list[tuple[str, str, str, float, float, str]]:
    """The mean gains that the text and Table 5 state."""

    def mean(model: str, group: str) -> float:
        return float(_of_group(languages, "slots", "F1", model, group).mean())

    said, tables = statements(), published_tables()
    aligned, non_latin = said["aligned-gain"], said["non-latin-gain"]
    both = {group: float(np.mean([mean(model, group) for model in MODELS])) for group in ("aligned", "non_latin")}
    means = f"{aligned.where}, from 11"
    return [
        ("Gain on the aligned languages", "Llama 3", "Table 5 from 11", tables["5"].row("llama3", "align-low").values["slots-aligned-gain"], mean("llama3", "aligned"), ""),
        ("Gain on the aligned languages", "Llama 3", means, aligned.value, mean("llama3", "aligned"), ""),
        ("Gain on the aligned languages", "Qwen 2.5", means, aligned.value, mean("qwen2.5", "aligned"), ""),
        ("Gain on the aligned languages", "mean of both models", means, aligned.value, both["aligned"], ""),
        ("Gain on non-Latin scripts", "Llama 3", "text, from 11", non_latin.value, mean("llama3", "non_latin"), ""),
        ("Gain on non-Latin scripts", "mean of both models", "text, from 11", non_latin.value, both["non_latin"], ""),
    ]  # fmt: skip


def _single_claims(languages: pd.DataFrame) -> list[tuple[str, str, str, float, float, str]]:
    """What the text and the smaller tables state beside averages and gains."""
    said, placements = statements(), published_tables()["3, 13"]
    middle, top = (placements.row("llama3", f"align-{layer}").values for layer in ("middle", "top"))
    slots = _of_group(languages, "slots", "F1", "llama3", "transfer")
    from_english, transfer = (
        _of_group(languages, "translation", "COMET", "llama3", group) for group in ("from_english", "transfer")
    )
    return [
        ("SD of the transfer gains in slot F1, middle", "", "Tables 3 and 13 from 11", middle["slots-transfer-sd"], float(slots.std(ddof=1)), "sample SD over 15 languages"),
        ("SD of the transfer gains in COMET, middle", "3 directions from English", "Tables 3 and 13 from 12", middle["translation-transfer-sd"], float(from_english.std(ddof=1)), ""),
        ("SD of the transfer gains in COMET, middle", "all 6 transfer directions", "Tables 3 and 13 from 12", middle["translation-transfer-sd"], float(transfer.std(ddof=1)), ""),
        ("Transfer F1 with the loss at the top", "", "Tables 3 and 13 from 11", top["slots-transfer-f1"], _mean_of_middle_row(), "the row of Table 11 repeats the middle one"),
        ("Number of transfer languages", "", said["transfer-languages-analysis"].where, said["transfer-languages-analysis"].value, said["transfer-languages-setup"].value, "15 in section 4.1 and in the tables"),
    ]  # fmt: skip


def _mean_of_middle_row() -> float:
    values = published_tables()["11"].row("llama3", "align").values
    return float(np.mean([values[code] for code in language_groups("slots")["transfer"]]))


def _repeated_rows() -> list[tuple[str, str, str, float, float, str]]:
    """Values of one system that several tables print."""
    main = published_tables()["2"]
    rows = []
    for number, system, same in (
        ("3, 13", "sft", "sft"),
        ("3, 13", "align-middle", "align"),
        ("4", "align-5-english", "align"),
        ("5", "sft", "sft"),
        ("5", "align-low", "align"),
        ("7", "sft", "sft"),
        ("7", "align", "align"),
    ):
        reference = main.row("llama3", same).values
        for column, value in published_tables()[number].row("llama3", system).values.items():
            if column in reference:
                claim = f"Llama 3 {system}, {column}"
                rows.append((claim, "", f"{_told(number)} from 2", value, reference[column], "the same system"))
    return rows


def _told(number: str) -> str:
    return f"Tables {number.replace(', ', ' and ')}" if "," in number else f"Table {number}"


def _open() -> pd.DataFrame:
    merged = published_tables()["7"].row("llama3", "merge").values
    top = published_tables()["3, 13"].row("llama3", "align-top").values
    shared = [value for column, value in merged.items() if top[column] == value]
    return pd.DataFrame(
        [
            ("SD of the gains with the loss at the top or bottom", "Tables 3 and 13", "the values by language are not published; the top row of Table 11 repeats the middle one"),
            ("Middle against top, paired over languages", "Tables 3 and 13", "for the same reason; only the printed SDs can be compared"),
            ("Correlation of retrieval with transfer F1", "Figure 1b", "accuracies by language are not published, and the number of points is not stated"),
            ("Gains on English-only fine-tuning", "Table 9", "its columns es, cy and ja look displaced"),
            ("Averages on more data, other resource levels, merging, JSON", "Tables 4 to 8", "no values by language"),
            ("Translation of the merged adapters", "Table 7", f"its values, {' and '.join(map(str, shared))}, equal those of the top row of Table 3: one of the two may be a copy"),
            ("Retrieval accuracies", "Tables 2 and 6", "no values by layer or direction; run the probe"),
            ("Variation between training runs", "all tables", "one run a row: the tests here are over languages and say nothing about another seed"),
        ],
        columns=["claim", "where", "reason"],
    )  # fmt: skip


# For people


def _remarks(
    gains: pd.DataFrame, between: pd.DataFrame, spread: pd.DataFrame, figure: pd.DataFrame, checks: pd.DataFrame
) -> tuple[str, ...]:
    mean = gains.set_index(["task", "metric", "model", "group"])["mean"]
    slots = gains[gains["task"] == "slots"].set_index(["model", "group"])
    claims, failed = _claims(checks), _claims(checks[~checks["fits"]])
    return (
        *(_transfer_sentence(model, slots.loc[(model, "transfer")]) for model in MODELS),
        _between_sentence(between),
        "On the transfer languages outside the alignment data alone no gain is shown: "
        + "; ".join(
            f"{model_name(model)} {slots.loc[(model, 'not_aligned'), 'mean']:+.2f} on these {slots.loc[(model, 'not_aligned'), 'n']} "
            f"(paired t-test p = {slots.loc[(model, 'not_aligned'), 't_p']:.2f})"
            for model in MODELS
        )
        + ".",
        _holm_sentence(gains),
        "Translation has 3 transfer languages; mean gains in COMET: "
        + "; ".join(
            f"{model_name(model)} {mean['translation', 'COMET', model, 'to_english']:+.2f} to English and "
            f"{mean['translation', 'COMET', model, 'from_english']:+.2f} from English"
            for model in MODELS
        )
        + ".",
        _spread_sentence(spread),
        _figure_sentence(figure),
        f"{claims} claims compared with other published numbers, under every reading where there are several: {claims - failed} agree "
        f"within rounding ({TOLERANCE} points, a gain {GAIN_TOLERANCE}) under one reading at least, {failed} under none.{_readings_sentence(checks)}",
        "Each row of the source is one training run: the p-values are about other languages, not about other seeds. Languages are "
        "taken as independent, which related ones are not.",
    )  # fmt: skip


def _transfer_sentence(model: str, row: pd.Series) -> str:
    tests = {
        "the paired t-test": row["t_p"],
        "Wilcoxon's signed ranks": row["wilcoxon_p"],
        "sign flips": row["sign_flip_p"],
    }
    below = [name for name, p in tests.items() if p < ALPHA]
    told = ", ".join(f"{name} p = {p:.3f}" for name, p in tests.items())
    verdict = {0: f"none is below {ALPHA}", len(tests): f"all are below {ALPHA}"}.get(
        len(below), f"the tests do not agree about {ALPHA} (below it: {' and '.join(below)})"
    )
    return (
        f"{model_name(model)} gains {row['mean']:+.2f} F1 in slot filling over {row['n']} transfer languages (SD {row['sd']:.2f}, 95 % "
        f"interval {row['low']:.2f} to {row['high']:.2f}). Of three two-sided tests, {told}: {verdict}."
    )  # fmt: skip


def _between_sentence(between: pd.DataFrame) -> str:
    told = "; ".join(
        f"{model_name(row.model)} {row.aligned:+.2f} against {row.others:+.2f} (Welch's t-test p = {row.welch_p:.3f}, exact permutation "
        f"over {row.groupings} groupings p = {row.permutation_p:.3f})"
        for row in between.itertuples()
    )
    below = between[["welch_p", "permutation_p"]] < ALPHA
    verdict = (
        f"all are below {ALPHA}"
        if below.all(axis=None)
        else f"the tests do not agree about {ALPHA}"
        if below.any(axis=None)
        else f"none is below {ALPHA}"
    )
    return (
        f"Gain in slot filling on the {between['n_aligned'].iloc[0]} aligned languages against the {between['n_others'].iloc[0]} other "
        f"transfer languages: {told}: {verdict}. Welch's test is of means and lets the spreads differ; the permutation takes both groups "
        "to be of one distribution, so that it also answers to spreads that differ."
    )


def _holm_sentence(gains: pd.DataFrame) -> str:
    told = f"of the {len(gains)} paired t-tests, adjusted for their number within task and metric (Holm),"
    surviving = gains[gains["holm_p"] < ALPHA]
    if surviving.empty:
        return f"Multiple testing: {told} none stays below {ALPHA}."
    labels = {"slots": _SLOTS, "translation": _TRANSLATION}
    named = "; ".join(
        f"{model_name(row.model)}, {labels[row.task][row.group]}, {row.metric} ({row.mean:+.2f}, n = {row.n}, p = {row.holm_p:.3f})"
        for row in surviving.itertuples()
    )
    least = {count: 2 / 2**count for count in surviving["n"] if 2 / 2**count >= ALPHA}
    doubt = "".join(
        f" Over {count} languages or directions no exact test of signs can fall below {p:g}, whatever the gains: there p rests on the "
        "normal distribution that the t-test assumes."
        for count, p in least.items()
    )
    return f"Multiple testing: {told} {len(surviving)} stay{'s' if len(surviving) == 1 else ''} below {ALPHA}: {named}.{doubt}"


def _readings_sentence(checks: pd.DataFrame) -> str:
    """The readings that fit, of claims of which others do not."""
    mixed = checks.groupby(["claim", "where"])["agrees"].transform("nunique") > 1
    fitting = checks[mixed & checks["agrees"]]
    named = "; ".join(f"{row.claim} ({row.where}): {row.reading}" for row in fitting.itertuples())
    return f" Under some readings only: {named}." if named else ""


def _spread_sentence(spread: pd.DataFrame) -> str:
    slots = spread[spread["task"] == "slots"].set_index("placement")
    middle, top = slots.loc["align-middle"], slots.loc["align-top"]
    return (
        f"That gains vary less with the loss in the middle than at the top (SD {middle['printed']:.1f} against {top['printed']:.1f}) cannot "
        f"be tested, since the row of the top in Table 11 is a copy of the middle. Taken as independent samples the two do not differ (F = "
        f"{top['f']:.2f}, p = {top['f_p']:.2f}); as paired ones they would only if the two sets of gains correlate at {top['needed_r']:.2f} or more."
    )  # fmt: skip


def _figure_sentence(figure: pd.DataFrame) -> str:
    doubtful = figure[figure["holds"] != "yes"]
    named = "; ".join(
        f"{model_name(row.model)}, r = {row.r:.2f} over {row.n} languages, p = {row.p:.4f} ({row.p_low:.4f} to {row.p_high:.4f} as r is rounded)"
        for row in doubtful.itertuples()
    )
    return (
        "Figure 1b states p < 0.01 for both correlations without the number of languages. "
        f"That is not so, or not certain, for {named}."
    )  # fmt: skip


_CHECKS_NOTE = (
    f"Printed and recomputed in percent points (numbers of languages as they are); they agree where they differ by no more than "
    f"rounding excuses: {TOLERANCE}, or {GAIN_TOLERANCE} of a gain, which is a mean of differences of two rounded values. A claim stands where one of its readings agrees. Source: Liu and Niehues (2025), the tables named in each row."
)
_GAINS_CAPTION = (
    "Gain of alignment at the middle layer over fine-tuning, in percent points, recomputed from the values by language: mean, sample SD "
    "(ddof = 1), 95 % interval and two-sided p of paired tests over n languages or directions. Wilcoxon and sign flips are exact; Holm: the "
    "t-tests adjusted within task and metric. Source: Liu and Niehues (2025), Tables 11 and 12."
)
_GAINS_COLUMNS = {
    "task": "task", "metric": "metric", "model": "model", "group": "languages", "n": "n", "mean": "mean", "sd": "SD", "low": "low",
    "high": "high", "t_p": "t-test p", "wilcoxon_p": "Wilcoxon p", "sign_flip_p": "sign-flip p", "holm_p": "Holm p",
}  # fmt: skip
_BETWEEN_CAPTION = (
    "Gain in slot F1 of the aligned languages against that of the other transfer languages, in percent points, recomputed from the values by "
    "language: difference of the means with its 95 % interval and two-sided p of Welch's t-test, and exact p over all groupings of the "
    "languages (Fisher and Pitman). Not adjusted for the two models. Source: Liu and Niehues (2025), Table 11."
)
_BETWEEN_COLUMNS = {
    "model": "model", "n_aligned": "n aligned", "n_others": "n others", "aligned": "mean, aligned", "others": "mean, others",
    "difference": "difference", "low": "low", "high": "high", "welch_p": "Welch p", "permutation_p": "permutation p",
    "groupings": "groupings",
}  # fmt: skip
_LANGUAGES_CAPTION = (
    "Published scores of fine-tuning (base) and alignment, and their difference, in percent points. "
    "Source: Liu and Niehues (2025), Tables 11 and 12."
)
_LANGUAGES_COLUMNS = {
    "task": "task", "metric": "metric", "model": "model", "unit": "language or direction", "base": "base", "other": "aligned",
    "difference": "difference",
}  # fmt: skip
_SPREAD_CAPTION = (
    "SD of the gains over transfer languages by placement of the loss (Llama 3; slot F1, and COMET from English): printed in "
    "Tables 3 and 13, and recomputed from Tables 11 and 12 where the values by language are published. F and its p compare with the "
    "middle as if samples were independent; needed r: correlation between the two sets of gains from which Pitman and Morgan's test for "
    "paired samples gives p < 0.05. Source: Liu and Niehues (2025)."
)
_SPREAD_COLUMNS = {
    "task": "task", "placement": "placement", "n": "n", "printed": "printed SD", "recomputed": "recomputed SD", "f": "F", "f_p": "p",
    "needed_r": "needed r",
}  # fmt: skip
_FIGURE_CAPTION = (
    "The correlations printed in Figure 1b of Liu and Niehues (2025): two-sided p and 95 % interval (Fisher's z) for the numbers of "
    "languages that the figure may show, beside its statement p < 0.01. holds: whether the "
    "statement is so for every correlation that rounds to the printed one."
)
_FIGURE_COLUMNS = {
    "model": "model", "r": "r", "n": "n", "low": "low", "high": "high", "p": "p", "holds": "p < 0.01 holds",
}  # fmt: skip
_CHECKS_COLUMNS = {
    "claim": "claim", "reading": "reading", "where": "where", "printed": "printed", "recomputed": "recomputed", "tolerance": "within",
    "agrees": "agrees", "fits": "claim stands", "note": "note",
}  # fmt: skip
_FAILED_COLUMNS = {name: heading for name, heading in _CHECKS_COLUMNS.items() if name not in ("agrees", "fits")}
_OPEN_CAPTION = "What cannot be recomputed or tested from the published numbers. Source: Liu and Niehues (2025)."
_OPEN_COLUMNS = {"claim": "claim", "where": "where", "reason": "why it stays open"}
