"""Score a ticket: python evaluate.py TICKET [CONFIG.yaml] [--dotted.key value ...] [--out metrics.json]; or
poses in a file: python evaluate.py --results FILE.json [CONFIG.yaml] [--dotted.key value ...] [--out metrics.json].
"""

from supertickets_keypoint import evaluation

if __name__ == "__main__":
    evaluation.main()
