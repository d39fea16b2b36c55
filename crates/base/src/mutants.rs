//! Deliberate bugs that the simulator must catch, compiled in only under `--cfg settle_mutants`.

/// Whether the deliberate bug of this name is switched on: a constant `false` in every build but the mutants' own.
///
/// `settle_base::mutant!("vote_before_store")` stands where the bug is made; `settle-sim mutants` lists what each means.
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {
        cfg!(settle_mutants) && $crate::mutants::is_on($name)
    };
}

#[cfg(settle_mutants)]
static ON: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Switches one bug on, for the whole process.
///
/// # Panics
/// When one is on already: a run is of one mutant.
#[cfg(settle_mutants)]
pub fn switch_on(name: &str) {
    assert!(ON.set(name.to_owned()).is_ok(), "a process runs one mutant");
}

#[cfg(settle_mutants)]
pub fn is_on(name: &str) -> bool {
    ON.get().is_some_and(|on| on == name)
}

#[cfg(not(settle_mutants))]
pub const fn is_on(_name: &str) -> bool {
    false
}
