"""A bulk job of very many pictures on paper: stragglers and lost machines, shard by shard.

    python tests/benchmarks/simulate_shards.py --pictures 1e9 --rate 50 --machines 1000

Each machine takes the next shard when it has ended one. It is lost after an exponential time (mean
``--hours-between-losses``), comes back after ``--minutes-to-replace``, and goes on with the shard
from its journal: what it had in hand (``--in-hand`` pictures) is asked again. Shards differ in how
long their pictures take (log-normal, ``--spread``), and now and then a machine is slow
(``--slow-share`` of them, by ``--slow-by``).
"""

import argparse
import heapq

import numpy as np


def simulate(options: argparse.Namespace) -> dict[str, float]:
    """Run the job once; hours, and pictures that were asked twice."""
    dice = np.random.default_rng(options.seed)
    per_shard = options.pictures / options.shards
    work = per_shard / options.rate * dice.lognormal(0, options.spread, options.shards)
    speed = np.where(dice.random(options.machines) < options.slow_share, 1 / options.slow_by, 1.0)
    mean, away = 3600 * options.hours_between_losses, 60 * options.minutes_to_replace
    free = [(0.0, machine) for machine in range(options.machines)]
    losses, ends = 0, []
    for seconds in work:
        now, machine = heapq.heappop(free)
        left = seconds / speed[machine]
        while (until := dice.exponential(mean)) < left:
            losses += 1
            left = left - until + options.in_hand / (options.rate * speed[machine])
            now += until + away
        heapq.heappush(free, (now + left, machine))
        ends.append(now + left)
    ideal = options.pictures / options.rate / options.machines
    return {
        "hours": max(ends) / 3600,
        "hours without losses and stragglers": ideal / 3600,
        "losses": losses,
        "asked twice": losses * options.in_hand,
        "hours of the last 1% of shards": (max(ends) - np.quantile(ends, 0.99)) / 3600,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=float, default=1e9)
    parser.add_argument("--rate", type=float, default=50.0, help="pictures a second and machine")
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--hours-between-losses", type=float, default=24.0)
    parser.add_argument("--minutes-to-replace", type=float, default=10.0)
    parser.add_argument("--in-hand", type=int, default=20)
    parser.add_argument("--spread", type=float, default=0.2)
    parser.add_argument("--slow-share", type=float, default=0.02)
    parser.add_argument("--slow-by", type=float, default=3.0)
    parser.add_argument("--dollars-an-hour", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = simulate(options)
    for name, value in found.items():
        print(f"{name}: {value:,.1f}")
    dollars = found["hours"] * options.machines * options.dollars_an_hour
    print(f"dollars a million pictures: {1e6 * dollars / options.pictures:,.2f}")


if __name__ == "__main__":
    main()
