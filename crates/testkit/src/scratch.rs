use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A folder of its own for a test: removed at its end, kept and named when the test panics.
pub struct Scratch {
    dir: Option<TempDir>,
}

impl Scratch {
    pub fn new() -> Result<Scratch> {
        let dir = tempfile::Builder::new()
            .prefix("settle-test-")
            .tempdir()
            .context("make a folder for the test")?;
        Ok(Scratch { dir: Some(dir) })
    }

    pub fn path(&self) -> &Path {
        self.dir.as_ref().expect("it is there until the end").path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("The files of this test are kept in {}", dir.keep().display());
        }
    }
}
