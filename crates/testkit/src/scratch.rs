use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A folder of its own for a test. A test that is not [`finish`](Scratch::finish)ed has failed: its folder is kept and
/// named.
pub struct Scratch {
    dir: TempDir,
    is_finished: bool,
}

impl Scratch {
    pub fn new() -> Result<Scratch> {
        let dir = tempfile::Builder::new()
            .prefix("settle-test-")
            .tempdir()
            .context("make a folder for the test")?;
        Ok(Scratch {
            dir,
            is_finished: false,
        })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The test is good: nobody will look into the folder.
    pub fn finish(mut self) {
        self.is_finished = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.is_finished {
            self.dir.disable_cleanup(true);
            eprintln!("The files of this test are kept in {}", self.dir.path().display());
        }
    }
}
