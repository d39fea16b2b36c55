//! Assertions of the code under test are checks too: a panic becomes a violation that names the place.

use std::{
    cell::{Cell, RefCell},
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

use crate::invariants::{Broken, Checked};

/// Not a failure: the run was told to stop here.
pub(crate) const STOPPED: &str = "stopped";

pub(crate) enum Watched {
    Good,
    Broken(Broken),
    Panicked(Broken),
}

thread_local! {
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
    static SAID: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

/// Runs `live` and catches what it throws. Where panics abort, they are printed by the process's own hook as ever.
pub(crate) fn watch(live: impl FnOnce() -> Checked) -> Watched {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_WATCHED.get() || cfg!(panic = "abort") {
                return before(info);
            }
            let place = info
                .location()
                .map_or_else(String::new, |l| format!("{}:{}", l.file(), l.line()));
            let said = info.payload().downcast_ref::<String>().cloned();
            let said = said.or_else(|| info.payload().downcast_ref::<&str>().map(|s| (*s).to_owned()));
            SAID.set(Some((place, said.unwrap_or_default())));
        }));
    });
    IS_WATCHED.set(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(live));
    IS_WATCHED.set(false);
    match outcome {
        Ok(Ok(())) => Watched::Good,
        Ok(Err(broken)) => Watched::Broken(broken),
        Err(_) => {
            let (place, said) = SAID.take().unwrap_or_default();
            Watched::Panicked(Broken::new("assertion in the code", format!("{place}: {said}")))
        }
    }
}
