"""Score a ticket: python -m supertickets_keypoint.evaluate TICKET [RECIPE] [--dotted.key value ...] [--out metrics.json]; or
poses in a file: python -m supertickets_keypoint.evaluate --results FILE.json [RECIPE] [--dotted.key value ...].
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from supertickets import cli
from supertickets.arguments import (
    Parser,
    add_recipe,
    chosen_recipe,
    friendly,
    path_argument,
    split_overrides,
)
from supertickets.config.reader import load_config
from supertickets.errors import UserError
from supertickets.scores import check_scores_file, report_scores
from supertickets.terminal import note
from supertickets.types import Metrics
from supertickets_keypoint.annotations import Truth, check_joints, json_path, own_results, read_results, read_truth
from supertickets_keypoint.config import KeypointConfig, KeypointData
from supertickets_keypoint.joints import joints_of
from supertickets_keypoint.scoring import ap_scores, check_scorable
from supertickets_keypoint.skeletons import assumed_sigmas, assumption, complete, with_joints
from supertickets_keypoint.sources import check_joint_names, open_source

PACKAGE = "supertickets_keypoint"


def main(argv: Sequence[str] | None = None) -> None:
    """Score a ticket (`evaluate TICKET ...`) or a results file (`evaluate --results FILE.json ...`)."""
    given = list(sys.argv[1:] if argv is None else argv)
    if any(word.split("=")[0] == "--results" for word in given):
        evaluate_results(given)
    else:
        cli.evaluate("keypoint", given)


@friendly
def evaluate_results(argv: Sequence[str]) -> None:
    """Score a results file against the validation annotations of a config."""
    parser = Parser("python -m supertickets_keypoint.evaluate", description="Score poses in COCO's result layout.")
    add_recipe(parser, "it names the data (default: the embedded data set)", PACKAGE)
    parser.add_argument("--results", type=path_argument, required=True, help="poses in COCO's result layout")
    parser.add_argument("--out", type=path_argument, help="write the scores to this JSON file")
    options, overrides = split_overrides(parser, argv)
    recipe = chosen_recipe(options, PACKAGE)
    config = load_config(KeypointConfig, recipe, overrides)
    check_scores_file(options.out, inputs=[options.results, recipe, *config.paths()])
    scores = score_results(options.results, config)
    report_scores(f"{options.results}", scores, options.out)


def score_results(results: Path, config: KeypointConfig) -> Metrics:
    """COCO's metrics of a results file, given the validation annotations of the config. Raises `UserError` for wrong files."""
    truth, data, where = _truth_of(config.data)
    joints, assumed = joints_of(data), assumed_sigmas(data.joints or [], config.data)
    entries = read_results(results)
    poses = own_results(entries, truth["categories"][0]["id"])  # as COCO's own evaluation counts
    check_joints(poses, len(joints), results)
    if others := len(entries) - len(poses):
        note(f"{results}: {others} poses of other categories than {truth['categories'][0]['id']} are not counted")
    check_scorable(truth, where)
    try:
        scores = ap_scores(truth, poses, joints.sigmas)
    except UserError as error:
        raise UserError(f"{results}: {error}") from None
    protocol = (
        f"OKS AP on {data.name}/{data.val_split or 'val'}; poses, boxes, flip test and input size are those of {results.name}"
    )
    if assumed:
        protocol += f"; {assumption(assumed, data)}"
    return scores | {"poses": len(poses), "protocol": protocol}


def _truth_of(given: KeypointData) -> tuple[Truth, KeypointData, str]:
    """The validation annotations, the settings with the skeleton of their category, and the place of both."""
    if given.name == "scenes":
        data, _ = complete(given)
        source = open_source(data, "val")
        return source.truth, data, source.where
    path = json_path(given, "val")
    truth = read_truth(path, given.category)
    category = truth["categories"][0]
    if given.joints is not None:
        check_joint_names(category["keypoints"], given, where=path)
    return truth, with_joints(given, category, where=str(path)), str(path)


if __name__ == "__main__":
    main()
