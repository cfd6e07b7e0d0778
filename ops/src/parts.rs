//! Other people's programs that tests speak to.

use stack::process;

/// Whether a program is not here. That is said, and is a failure where `STACK_TESTS_REQUIRE` names it.
pub(crate) fn lacks(program: &str) -> bool {
    if process::find(program).is_some() {
        return false;
    }
    let required = std::env::var("STACK_TESTS_REQUIRE").unwrap_or_default();
    assert!(!required.split_whitespace().any(|it| it == program), "STACK_TESTS_REQUIRE names {program}");
    eprintln!("SKIPPED: {program} cannot be had here");
    true
}
