"""A budget cannot be exceeded, whatever clients do."""


def test_budget_of_five_gives_five_answers_to_a_hundred_requests(make_world, body) -> None:
    """Exactly five answers, then typed refusals that charge nothing."""
    world = make_world(budget=5)
    connection = world.connect()
    answers = [connection.infer(body) for _ in range(100)]
    statuses = [answer.status for answer in answers]
    assert statuses.count(200) == 5, answers[0].body
    assert statuses.count(402) == 95
