"""Move a ticket: accelerate launch transfer.py TICKET --to TASK [CONFIG.yaml] [--dotted.key value ...]."""

from supertickets_transfer.transfer import main

if __name__ == "__main__":
    main()
