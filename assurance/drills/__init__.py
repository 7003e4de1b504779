"""What drills share: a deployment of real processes that is gone afterwards, and consumers that ask without pause."""
