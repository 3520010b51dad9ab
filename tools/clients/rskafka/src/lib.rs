//! Only tests: see `tests/against_a_broker.rs`.
