//! Each rule is tried on a small repository that breaks it, and on one that does not.

use std::{collections::BTreeSet, path::Path};

use tempfile::TempDir;

use super::{Findings, check, generated_pages};

/// A repository in a temporary folder: `base` (L0), `storage` (L1), `tx` and `tx-gate` (L2), `net` and `node` (L4).
struct Repository {
    folder: TempDir,
}

const FIELDS: &str = "version.workspace = true\nedition.workspace = true\nrust-version.workspace = true\n\
    license.workspace = true\npublish.workspace = true\n\n[lints]\nworkspace = true\n";

impl Repository {
    fn clean() -> Repository {
        let repository = Repository {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        let mut root = "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\nexclude = [\"vendor\"]\n\
            [workspace.package]\nversion = \"0.1.0\"\nedition = \"2024\"\nrust-version = \"1.85\"\nlicense = \"Apache-2.0\"\n\
            publish = false\n[workspace.lints.rust]\nunused_must_use = \"deny\"\n[workspace.dependencies]\n\
            tokio = { path = \"vendor/tokio\" }\nharmless = { path = \"vendor/harmless\" }\n"
            .to_string();
        let mut map = String::new();
        for (name, dependencies) in [
            ("base", ""),
            ("storage", "settle-base.workspace = true\n"),
            ("tx", "settle-base.workspace = true\n"),
            ("tx-gate", "settle-base.workspace = true\nsettle-tx.workspace = true\n"),
            ("net", "settle-base.workspace = true\ntokio.workspace = true\n"),
            (
                "node",
                "settle-net.workspace = true\nsettle-storage.workspace = true\nsettle-tx.workspace = true\n",
            ),
        ] {
            map += &format!(
                "**`crates/{name}`** is.\n*Architecture invariant:* pure.\n*Guarded by:* `cargo xtask tidy`.\n\n"
            );
            root += &format!("settle-{name} = {{ path = \"crates/{name}\" }}\n");
            let manifest = format!("[package]\nname = \"settle-{name}\"\n{FIELDS}\n[dependencies]\n{dependencies}");
            repository.write(&format!("crates/{name}/Cargo.toml"), &manifest);
            repository.write(&format!("crates/{name}/src/lib.rs"), "");
        }
        repository.write("Cargo.toml", &root);
        repository.write("ARCHITECTURE.md", &map);
        repository.write(
            "vendor/tokio/Cargo.toml",
            "[package]\nname = \"tokio\"\nedition = \"2024\"\n",
        );
        repository.write("vendor/tokio/src/lib.rs", "");
        repository.write(
            "vendor/harmless/Cargo.toml",
            "[package]\nname = \"harmless\"\nedition = \"2024\"\n[dependencies]\ntokio = { path = \"../tokio\" }\n",
        );
        repository.write("vendor/harmless/src/lib.rs", "");
        repository.write(
            "crates/base/src/lib.rs",
            "mod code;\nmod hash;\npub use {code::ErrorCode, hash::FixedMap};\n",
        );
        repository.write("crates/base/src/code.rs", "pub struct ErrorCode;\n");
        repository.write(
            "crates/base/src/hash.rs",
            "use std::collections::HashMap;\npub struct FixedState;\npub type FixedMap<K, V> = HashMap<K, V, FixedState>;\n",
        );
        repository.write("docs/bad-input.md", "# Bad input\n");
        repository
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.folder.path().join(file);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("make the folder");
        std::fs::write(path, text).expect("write the file");
    }

    fn append(&self, file: &str, text: &str) {
        let before = std::fs::read_to_string(self.folder.path().join(file)).unwrap_or_default();
        self.write(file, &(before + text));
    }

    fn with(self, file: &str, text: &str) -> Repository {
        self.write(file, text);
        self
    }

    fn findings(&self) -> Findings {
        let root = self.folder.path().canonicalize().expect("the folder exists");
        check(Path::new(&root)).expect("the repository can be read")
    }

    #[track_caller]
    fn assert_clean(&self) {
        let findings = self.findings();
        assert!(findings.list.is_empty(), "{findings:#?}");
    }

    /// Asserts that something was found and that every finding is of `rule`, in `file`, and speaks of `word`.
    #[track_caller]
    fn assert_finds(&self, rule: &str, file: &str, word: &str) {
        let findings = self.findings();
        assert!(!findings.list.is_empty(), "nothing found");
        for finding in &findings.list {
            assert!(finding.rule == rule && finding.place.file == file, "{finding}");
        }
        assert!(
            findings.list.iter().any(|finding| finding.message.contains(word)),
            "{word}: {findings:#?}"
        );
    }
}

const TX: &str = "crates/tx/src/lib.rs";
const WALL: &str = "pure-source";

#[test]
fn a_clean_repository_has_no_findings() {
    Repository::clean().assert_clean();
}

#[test]
fn a_core_may_name_durations_ordered_maps_fixed_maps_and_addresses() {
    let code = "
        use settle_base::FixedMap;
        use std::{collections::{BTreeMap, hash_map::Entry}, fmt, time::Duration};
        struct Instant;
        struct Core { fs: u8 }
        fn f(map: FixedMap<u8, u8>, core: Core, at: core::net::IpAddr) -> std::io::Result<Instant> {
            assert!(core.fs == 1, \"{}\", Duration::from_secs(1).as_millis());
            debug_assert_eq!(at, at, \"{}\", std::mem::size_of::<BTreeMap<u8, Instant>>());
            matches!(map, Entry::Vacant(_) | fmt::Error);
            Ok(Instant)
        }
        #[cfg(test)]
        mod tests { #[test] fn t() { println!(\"seed\"); } }";
    Repository::clean().with(TX, code).assert_clean();
}

#[test]
fn an_impure_path_in_a_core_is_found_under_every_spelling() {
    let spellings = [
        (
            "use std::time as t; fn f() { t::Instant::now(); }",
            "std::time::Instant",
        ),
        ("use std::time::Instant as I; fn f(_: I) {}", "std::time::Instant"),
        (
            "use std as s; fn f() { s::time::SystemTime::now(); }",
            "std::time::SystemTime",
        ),
        ("extern crate std as x; fn f() { x::fs::read(\"a\"); }", "std::fs"),
        (
            "extern crate std as x; mod a { fn f() { x::fs::read(\"a\"); } }",
            "std::fs",
        ),
        ("use std::time::*; fn f() { Instant::now(); }", "std::time::Instant"),
        ("use std::*; fn f() { thread::yield_now(); }", "std::thread"),
        ("type At = ::std::time::Instant;", "std::time::Instant"),
        ("fn f() { use std::{env, fmt}; env::var(\"A\"); }", "std::env"),
        ("fn f() { r#std::process::exit(1) }", "std::process"),
        (
            "mod a { pub use std::time; } mod b { use super::a::time::Instant; }",
            "std::time::Instant",
        ),
        (
            "mod a { pub mod b { pub use std::net; } pub use b::*; } fn f(_: a::net::TcpStream) {}",
            "std::net",
        ),
        (
            "fn f() { <std::time::Instant as Into<u8>>::into(); }",
            "std::time::Instant",
        ),
        (
            "use std::collections::HashMap; type A = HashMap<u8, u8>;",
            "std::collections::HashMap",
        ),
        (
            "use std::collections; fn f(_: collections::HashSet<u8>) {}",
            "std::collections::HashSet",
        ),
        ("fn f() { std::hash::RandomState::new(); }", "std::hash::RandomState"),
        (
            "use std::io::{self, Write}; fn f() { io::stdout().flush(); }",
            "std::io::stdout",
        ),
        (
            "fn f() { assert!(std::time::Instant::now() > x); }",
            "std::time::Instant",
        ),
        (
            "use std::time as t; fn f() { vec![t::Instant::now()]; }",
            "std::time::Instant",
        ),
        (
            "macro_rules! now { () => { $crate::std_time::Instant::now() } } use std::time as std_time;",
            "std::time::Instant",
        ),
        (
            "macro_rules! now { () => { { use std::{fmt, time::{self as t}}; t::Instant::now() } } }",
            "std::time",
        ),
        (
            "macro_rules! at { ($name:ident) => { std::time::$name::now() } }",
            "std::time",
        ),
        ("fn f() { at!(std, time); }", "std"),
        ("fn f() { at!(Instant); }", "Instant"),
        (
            "#[cfg(test)] mod tests { #[test] fn t() { std::thread::sleep(x); } }",
            "std::thread",
        ),
        (
            "#[derive(Debug)] struct A { #[serde(default = std::time::Instant::now)] at: u8 }",
            "std::time::Instant",
        ),
        ("fn f() { println!(\"a\"); }", "println!"),
        ("fn f() { x!({ eprintln!(\"a\") }); }", "eprintln!"),
        ("include!(\"clock.in\");", "include!"),
        ("unsafe extern \"C\" { fn time() -> i64; }", "foreign"),
    ];
    for (code, word) in spellings {
        Repository::clean().with(TX, code).assert_finds(WALL, TX, word);
    }
}

#[test]
fn an_impure_path_is_found_behind_a_re_export_of_another_crate() {
    let repository = Repository::clean().with(TX, "use settle_base::clock::Moment as M; fn f(_: M) {}");
    repository.append(
        "crates/base/src/lib.rs",
        "pub mod clock { mod inner; pub use inner::*; }",
    );
    repository.write(
        "crates/base/src/clock/inner.rs",
        "pub use std::time::Instant as Moment;",
    );
    let findings = repository.findings();
    let files: BTreeSet<&str> = findings
        .list
        .iter()
        .map(|finding| finding.place.file.as_str())
        .collect();
    assert_eq!(
        files,
        BTreeSet::from(["crates/base/src/clock/inner.rs", TX]),
        "{findings:#?}"
    );
}

#[test]
fn integration_tests_and_files_that_no_target_reaches_have_the_wall_too() {
    for file in [
        "crates/tx/tests/replay.rs",
        "crates/tx/src/stray.rs",
        "crates/tx/build.rs",
    ] {
        Repository::clean()
            .with(file, "fn main() { std::time::Instant::now(); }")
            .assert_finds(WALL, file, "Instant");
    }
}

#[test]
fn a_runtime_crate_may_read_the_clock_and_net_may_not_touch_files() {
    let clock = "pub fn now() -> std::time::Instant { std::time::Instant::now() }";
    Repository::clean().with("crates/node/src/lib.rs", clock).assert_clean();
    let file = "crates/net/src/lib.rs";
    Repository::clean()
        .with(file, "use std::fs as f; fn a() { f::read(\"a\"); }")
        .assert_finds(WALL, file, "std::fs");
}

#[test]
fn an_upward_or_unnamed_sideways_dependency_is_found_in_every_kind() {
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for (user, used) in [
            ("tx", "net"),
            ("storage", "tx-gate"),
            ("net", "node"),
            ("tx", "storage"),
            ("tx-gate", "raft"),
        ] {
            let repository = Repository::clean();
            if used == "raft" {
                let manifest = format!("[package]\nname = \"settle-raft\"\n{FIELDS}");
                repository.write("crates/raft/Cargo.toml", &manifest);
                repository.write("crates/raft/src/lib.rs", "");
                repository.append("Cargo.toml", "settle-raft = { path = \"crates/raft\" }\n");
            }
            let manifest = format!("crates/{user}/Cargo.toml");
            let text = std::fs::read_to_string(repository.folder.path().join(&manifest)).expect("the manifest");
            let line = format!("settle-{used}.workspace = true\n");
            let text = match kind {
                "dependencies" => text + &line,
                _ => text + &format!("[{kind}]\n{line}"),
            };
            // A cycle is cargo's own to refuse; break the other half of it.
            if (user, used) == ("net", "node") {
                let node = format!("[package]\nname = \"settle-node\"\n{FIELDS}");
                repository.write("crates/node/Cargo.toml", &node);
            }
            repository.write(&manifest, &text);
            let findings = repository.findings();
            let layers: Vec<_> = findings
                .list
                .iter()
                .filter(|finding| finding.rule == "layers")
                .collect();
            let is_downward = (user, used) == ("tx", "storage");
            assert_eq!(layers.is_empty(), is_downward, "{user} → {used}: {findings:#?}");
        }
    }
}

#[test]
fn tokio_through_a_dev_dependency_of_a_core_is_found() {
    for line in ["tokio", "harmless"] {
        let repository = Repository::clean();
        let manifest = "crates/tx/Cargo.toml";
        repository.append(manifest, &format!("[dev-dependencies]\n{line}.workspace = true\n"));
        repository.assert_finds(
            "pure-dependencies",
            manifest,
            "tokio, a runtime, through a dev dependency",
        );
    }
}

#[test]
fn a_manifest_that_does_not_inherit_is_found() {
    let manifest = "crates/storage/Cargo.toml";
    let good = format!("[package]\nname = \"settle-storage\"\n{FIELDS}");
    for (from, to, word) in [
        ("[lints]\nworkspace = true\n", "", "lints"),
        ("edition.workspace = true", "edition = \"2021\"", "edition"),
        ("settle-storage", "settle-store", "settle-store"),
        (
            "[lints]",
            "[dependencies]\nharmless = { path = \"../../vendor/harmless\" }\n[lints]",
            "harmless",
        ),
        (
            "[lints]",
            "[target.'cfg(unix)'.dev-dependencies]\ntokio = { path = \"../../vendor/tokio\" }\n[lints]",
            "tokio",
        ),
    ] {
        let repository = Repository::clean();
        repository.write(
            "crates/node/Cargo.toml",
            &format!("[package]\nname = \"settle-node\"\n{FIELDS}"),
        );
        repository.write(manifest, &good.replace(from, to));
        let findings = repository.findings();
        let found = findings
            .list
            .iter()
            .any(|found| found.rule == "manifests" && found.message.contains(word));
        assert!(found, "{word}: {findings:#?}");
    }
}

#[test]
fn a_file_past_800_lines_needs_a_reason_in_its_head() {
    let long = "\n".repeat(801);
    Repository::clean()
        .with(TX, &long)
        .assert_finds("file-length", TX, "801 lines");
    Repository::clean()
        .with(TX, &format!("//! The core.\n//! Long because: \n{long}"))
        .assert_finds("file-length", TX, "lines");
    Repository::clean()
        .with(TX, &format!("//! The core.\n//! Long because: one flat match.\n{long}"))
        .assert_clean();
}

#[test]
fn error_codes_and_their_pages_agree() {
    const PAGE: &str = "docs/errors/TX0007.md";
    const GOOD: &str = "# TX0007: it broke\n\nRetryable: no\n\n## Meaning\nIt broke.\n\n## What to do\nMend it.\n";
    const INDEX: &str = "docs/errors/README.md";
    let coded = |code: &str| Repository::clean().with(TX, &format!("use settle_base::ErrorCode as Code;\n{code}"));
    let paged = |code: &str, page: &str| coded(code).with(PAGE, page).with(INDEX, "[TX0007](TX0007.md)\n");
    let one = "pub const BROKEN: Code = Code::new(\"TX\", 7);";
    paged(one, GOOD).assert_clean();
    coded(one).assert_finds("error-codes", TX, "no page docs/errors/TX0007.md");
    paged("", GOOD).assert_finds("error-codes", PAGE, "no code");
    let again = format!(
        "{one} mod again {{ {} }}",
        one.replace("Code", "settle_base::ErrorCode")
    );
    paged(&again, GOOD).assert_finds("error-codes", TX, "second time");
    paged(one, &GOOD.replace("Mend it.", "")).assert_finds("error-codes", PAGE, "What to do");
    paged(one, &GOOD.replace(": no", ": maybe")).assert_finds("error-codes", PAGE, "Retryable");
    paged(one, GOOD)
        .with(INDEX, "")
        .assert_finds("error-codes", PAGE, "link");
}

#[test]
fn error_codes_are_listed_through_matches_locals_tuples_and_helpers() {
    let listed = [
        "fn code(a: u8) -> Code { Code::new(\"TX\", match a { 0 => 7, _ => { 8 } }) }",
        "fn code(a: u8) -> Code { let n = if a == 0 { 7 } else { 8 }; Code::new(\"TX\", n) }",
        "fn code(a: u8) { let (n, _) = match a { 0 => (7, true), _ => (8, false) }; Code::new(\"TX\", n); }",
        "impl A { fn code(a: u8) { fn tx(n: u16) -> Code { Code::new(\"TX\", n) } match a { 0 => tx(7), _ => tx(8) } } }",
    ];
    for code in listed {
        let text = format!("use settle_base::ErrorCode as Code;\n{code}");
        let findings = Repository::clean().with(TX, &text).findings();
        let messages: Vec<&str> = findings.list.iter().map(|finding| finding.message.as_str()).collect();
        let all = messages.iter().zip(["TX0007 has no page", "TX0008 has no page"]);
        assert!(
            messages.len() == 2 && all.into_iter().all(|(message, start)| message.starts_with(start)),
            "{findings:#?}"
        );
    }
    let unlisted = [
        "fn code(n: u16) -> Code { Code::new(\"TX\", n) }\nfn all() { code(read()); }",
        "fn code(area: &'static str) -> Code { Code::new(area, 7) }",
        "fn code(a: u8) -> Code { let n = 7; let n = n + 1; Code::new(\"TX\", n) }",
    ];
    for code in unlisted {
        let text = format!("use settle_base::ErrorCode as Code;\n{code}");
        Repository::clean()
            .with(TX, &text)
            .assert_finds("error-codes", TX, "cannot list");
    }
}

#[test]
fn a_row_of_the_bad_input_table_names_a_real_test_and_a_real_code() {
    const TABLE: &str = "docs/bad-input.md";
    let with_row = |row: &str| {
        let code = "fn helper() {} mod decide { #[cfg(test)] mod tests { #[test] fn twice_is_refused() {} } }";
        let table = format!("# Bad input\n\n| case | test | error code |\n|---|---|---|\n{row}\n");
        Repository::clean()
            .with(TX, code)
            .with(
                "crates/tx/tests/hostile.rs",
                "proptest! { #[test] fn garbage_is_refused(a: u8) {} }",
            )
            .with(TABLE, &table)
    };
    with_row("| twice | `settle_tx::decide::tests::twice_is_refused` | none (idempotent) |").assert_clean();
    with_row("| garbage | `settle_tx::hostile::garbage_is_refused` | none (closed) |").assert_clean();
    with_row("| a | `settle_tx::tests::thrice_is_refused` | none (x) |").assert_finds("bad-input", TABLE, "no test");
    with_row("| a | `settle_tx::helper` | none (x) |").assert_finds("bad-input", TABLE, "no test");
    with_row("| a | `settle_tx::twice_is_refused` | TX0001 |").assert_finds("bad-input", TABLE, "TX0001");
    with_row("| a | b |").assert_finds("bad-input", TABLE, "2 cells");
}

#[test]
fn the_map_has_each_crate_with_its_invariant_and_no_other() {
    const MAP: &str = "ARCHITECTURE.md";
    let repository = Repository::clean();
    let map = std::fs::read_to_string(repository.folder.path().join(MAP)).expect("the map");
    let with_map = |from: &str, to: &str| Repository::clean().with(MAP, &map.replace(from, to));
    with_map("**`crates/tx`**", "`crates/tx`").assert_finds("code-map", MAP, "crates/tx is not on the map");
    with_map("*Architecture invariant:*", "").assert_finds("code-map", MAP, "crates/tx has no");
    let guard = "*Guarded by:* `cargo xtask tidy`.";
    with_map(guard, "").assert_finds("code-map", MAP, "name the test that guards it");
    with_map(guard, "*Guarded by:* care.").assert_finds("code-map", MAP, "names no test");
    with_map(guard, "*Guarded by:* `settle_tx::nobody`.").assert_finds("code-map", MAP, "settle_tx::nobody");
    let gone =
        "**`crates/gone`** was.\n*Architecture invariant:* none.\n*Guarded by:* `cargo xtask tidy`.\n\n**`crates/tx`**";
    with_map("**`crates/tx`**", gone).assert_finds("code-map", MAP, "no crate crates/gone");
}

#[test]
fn a_relative_link_leads_to_a_file() {
    let page = "docs/adr/0001.md";
    let good = "[a](../bad-input.md) [b](../bad-input.md#rules) [c](#here) [d](https://example.org/x)";
    Repository::clean().with(page, good).assert_clean();
    Repository::clean()
        .with(page, "[a](bad-input.md)")
        .assert_finds("links", page, "bad-input.md");
}

#[test]
fn a_generated_page_equals_what_its_command_prints_and_write_makes_it_so() {
    const PAGE: &str = "docs/reference/version.md";
    let repository = Repository::clean().with(PAGE, "<!-- generated by: cargo --version -->\ncargo 0.0.0\n");
    let check = |write: bool| {
        let mut findings = Findings::default();
        generated_pages::check(repository.folder.path(), write, &mut findings).expect("cargo knows its version");
        findings
            .list
            .iter()
            .map(|finding| finding.place.file.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(check(false), [PAGE]);
    assert!(check(true).is_empty());
    assert!(check(false).is_empty());
}
