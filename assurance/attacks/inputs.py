"""Attacks by numbers, models, inputs and outputs."""

from assurance.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (
    Attack(
        24,
        name="Numbers that parsers read differently",
        answer="Each number has one spelling and one domain; anything else is refused before it is believed: no unit "
        "moves.",
        tried="At running processes: each integer of each query, body and signed order that is described, and of "
        "inferences, takes up to 31 texts (true, NaN, 1e400, full-width digits, 1_0, 2^53+1, 2^63, -1, 1e3, 1.0, 100k "
        "digits or brackets, the same key twice); lengths of bodies and of their headers too. Every other field of "
        "them takes values of every other type, and every placeholder of a path and every query strange texts.",
        refusals=(
            "malformed: not_json",
            "malformed: not_finite",
            "malformed: integer_too_large",
            "malformed: duplicate_key",
            "malformed: too_deep",
            "malformed: bad_content_length",
            "malformed: bad_header_length",
            "invalid_value: schema",
            "invalid_value: bad_query",
        ),
    ),
    Attack(
        25,
        name="A malformed model",
        answer="It is refused, typed, by a process that holds nothing but models and has no way out; if it ends "
        "that process, the enclave lives on, attests anew and has counted right.",
        tried="A hostile custodian that seals models by itself; a seed of the campaign of malformed models at the"
        " real engine in its sandbox; engines that end by SIGSEGV and SIGKILL in the middle of runs.",
        refusals=("model_refused: engine_refused",),
    ),
    Attack(
        26,
        name="A model that reads files or loads code",
        answer="The sealing tool says what is wrong with it; an enclave that is lent it all the same refuses it, "
        "and looks for nothing that it names.",
        tried="Models after a file by absolute, climbing and relative paths, in constants, attributes, branches "
        "and functions; by members of the reader; after libraries, compiled models and the memory of the "
        "process. strace looks at parent and child, also of an enclave that boots.",
        refusals=(
            "model_refused: engine_refused",
            "model_refused: external_location",
            "model_refused: external_key",
            "model_refused: custom_operator",
            "model_refused: operator_refused",
        ),
    ),
    Attack(
        27,
        name="Bodies that unpack to far more",
        answer="Nothing is ever unpacked: an encoding is refused by its name, and packed bytes without one are no "
        "JSON and no package.",
        tried="Gzip at 1000:1, deflate, br, zstd, identity and gzip twice to routes of custodian and enclave, an "
        "archive of archives with names that climb, as a body and as an uploaded package, while the memory "
        "of both is measured.",
        refusals=(
            "unsupported_media: content_encoding",
            "unsupported_media: content_type",
            "malformed: not_utf8",
            "package_invalid: not_a_package",
        ),
    ),
    Attack(
        28,
        name="Enormous tensors and shapes that overflow",
        answer="What a shape says is compared with the data before anything is made of it. What a run would allocate"
        " beyond the engine's bound costs the run, uncharged, and not the engine.",
        tried="Shapes of 2^31, 2^63, [65536]^4, [-1], a million axes and the like, and bodies announced with up to "
        "a TiB, while the memory of the enclave and its engine is measured; eight bytes of input that ask a "
        "model for up to exabytes; batches of no rows, on which an LSTM ends its process.",
        refusals=(
            "invalid_value: empty_input",
            "too_large: too_many_elements",
            "too_large: rank_too_large",
            "too_large: body_too_large",
            "invalid_value: bad_shape",
            "malformed: integer_too_large",
            "engine_failed: out_of_memory",
            "invalid_value: model_refused_input",
        ),
    ),
    Attack(
        29,
        name="Inputs that are slow or have no meaning: NaN, infinities, denormals",
        answer="Numbers without a meaning are numbers like others, or refused where the model's terms say so; a "
        "denormal is zero. Work without an end is ended at the limit of the terms, uncharged, and others are answered "
        "meanwhile.",
        tried="NaN, infinities, signed zeros and denormals in binary and JSON, also while terms change; data of "
        "another type, length or address; eight runs of a consumer that would take days, while another asks: whose "
        "99th percentile stays below the limit of one run; runs of a model that meters no time.",
        refusals=(
            "deadline_exceeded: compute_limit",
            "invalid_value: wrong_datatype",
            "invalid_value: wrong_length",
            "invalid_value: not_finite",
            "malformed: not_finite",
            "malformed: not_json",
        ),
    ),
    Attack(
        30,
        name="A model is copied by its outputs",
        answer=(
            "Priced, not prevented: the budget limits how many answers there are, and the model's terms what each says"
            " (hidden outputs, the largest few, so many decimals); new terms hold while it is served. What fails tells"
            " one bit and costs nothing: one a second, and 60 at once"
        ),
        tried=(
            "two consumers ask in JSON and binary form, for all outputs and by name, of many rows, again under old ids,"
            " and while terms are made stricter; each number is compared with what the model itself gives. One has runs"
            " fail, which follows from the weights, as fast as it can, and while the engine is killed and boots anew"
        ),
        refusals=("forbidden: output_withheld", "conflict: terms_changed", "overloaded: too_many_failed"),
    ),
    Attack(
        31,
        name="Size and time of answers tell what was answered",
        answer=(
            "Where its terms say so, a model's answers have a few sizes, to the byte that TLS sends; time, number and"
            " requests are not hidden, and refusals have their own sizes"
        ),
        tried=(
            "a relay counts the bytes of 54 answers that differ in rows, form, outputs and ids: over 30 sizes without"
            " the term, and at most the five that there are with it"
        ),
    ),
    Attack(
        32,
        name="One consumer gets what belongs to another",
        answer="Ids belong to their consumers: each gets its own answer, and nothing that others see has a piece "
        "of it.",
        tried="Two consumers ask at the same time, 60 times, each time under the same id and with canaries of "
        "their own, also with bodies that are refused; both are searched for the other's canaries, and so "
        "are the custodian's views and log and what the processes say.",
        refusals=("conflict: request_key_reused",),
    ),
    Attack(
        33,
        name="Custodian or borrower read what consumers ask",
        answer=(
            "The consumer talks to the attested enclave itself; what the custodian, its files and the wire have, "
            "holds no prompt and no answer."
        ),
        tried=(
            "A prompt, its answer and the weights are looked for in every file, log, argument, environment and "
            "byte of traffic, and in the memory of the custodian."
        ),
    ),
)
