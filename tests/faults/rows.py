"""The rows of README.md that have no switchable fault, and why."""

ABSENT = {
    "20": "does not fit: top-1 with renormalisation is a setting, not a wrong line; that its router gets no "
    "gradient is stated as a fact in test_moe::test_top_1_renormalised_has_no_gradient",
}
LAST_ROW = 39
