//! A seed decides everything: two processes write the same trace, byte for byte.

use std::{path::Path, process::Command};

fn trace(scenario: &str, seed: u64, file: &Path) -> (Vec<u8>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_settle-sim"))
        .args(["--scenario", scenario, "--seed", &seed.to_string(), "--trace"])
        .arg(file)
        .output()
        .expect("the simulator runs");
    let text = String::from_utf8(output.stdout).expect("it prints text");
    assert!(output.status.success(), "{text}");
    (std::fs::read(file).expect("the trace is there"), text)
}

#[test]
fn the_same_seed_in_two_processes_gives_the_same_bytes_and_another_seed_others() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for scenario in ["raft", "tx", "range"] {
        let first = trace(scenario, 3, &dir.path().join("first"));
        let second = trace(scenario, 3, &dir.path().join("second"));
        assert!(
            first.0.len() > 100_000,
            "a trace of a whole run: {} bytes",
            first.0.len()
        );
        assert!(first == second, "{scenario}: two runs of one seed differ");
        let other = trace(scenario, 4, &dir.path().join("other"));
        assert!(first.0 != other.0);
    }
}
