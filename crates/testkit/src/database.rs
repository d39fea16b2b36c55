//! Private database servers: own folder and port, gone with the test.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{Ports, Process, Scratch};

/// A server dies with the pipe that its leash reads, so with the test, however that ends.
const LEASH: &str = r#"
exec 3<&0
"$@" </dev/null & child=$!
(cat <&3 >/dev/null; kill -9 $child) & watch=$!
wait $child; kill $watch
"#;

/// A database server that has been started; it answers a little later.
pub struct Database {
    _process: Process,
    ports: Ports,
    scratch: Scratch,
}

impl Database {
    /// A MariaDB that takes anybody as `root` without a password, on loopback; `None` (and a word) where there is no
    /// MariaDB and none is asked for.
    ///
    /// # Errors
    /// When it cannot be installed in its folder or started; in CI also when it is missing.
    pub fn mariadb() -> Result<Option<Database>> {
        let Some(program) = find("mariadbd")? else {
            return Ok(None);
        };
        let Some(install) = find("mariadb-install-db")? else {
            return Ok(None);
        };
        let scratch = Scratch::new()?;
        let (data, temp) = (scratch.path().join("data"), scratch.path().join("tmp"));
        std::fs::create_dir_all(&temp)?;
        let user = user()?;
        run(Command::new(install)
            .args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ])
            .arg(format!("--user={user}"))
            .arg(format!("--datadir={}", data.display()))
            .env("TMPDIR", &temp))?;
        let ports = Ports::reserve(1)?;
        let socket = scratch.path().join("db.sock");
        let arguments = [
            "--no-defaults".to_owned(),
            format!("--user={user}"),
            format!("--datadir={}", data.display()),
            format!("--tmpdir={}", temp.display()),
            format!("--socket={}", socket.display()),
            format!("--port={}", ports.address(0).port()),
            "--bind-address=127.0.0.1".to_owned(),
            "--skip-name-resolve".to_owned(),
            "--skip-grant-tables".to_owned(),
        ];
        leashed("mariadbd", &program, &arguments, ports, scratch).map(Some)
    }

    /// A PostgreSQL with the user `bank`, on loopback; `None` (and a word) where there is none and none is asked for.
    ///
    /// # Errors
    /// As [`Database::mariadb`].
    pub fn postgres() -> Result<Option<Database>> {
        let Some(program) = find("postgres")? else {
            return Ok(None);
        };
        // Debian keeps the others beside the server, out of PATH.
        let folder = program.canonicalize()?;
        let initdb = folder.parent().context("a program has a folder")?.join("initdb");
        let scratch = Scratch::new()?;
        let data = scratch.path().join("data");
        // It refuses to run as root: then it runs as the user whom its package made.
        let is_root = user()? == "root";
        if is_root {
            run(Command::new("chown").arg("postgres").arg(scratch.path()))?;
        }
        let with_user = |program: &Path| match is_root {
            true => {
                let mut words: Vec<String> = [
                    "setpriv",
                    "--reuid=postgres",
                    "--regid=postgres",
                    "--clear-groups",
                    "--",
                ]
                .map(str::to_owned)
                .into();
                words.push(program.display().to_string());
                words
            }
            false => vec![program.display().to_string()],
        };
        let words = with_user(&initdb);
        run(Command::new(&words[0])
            .args(&words[1..])
            .arg("-D")
            .arg(&data)
            .args(["-A", "trust", "-U", "bank", "-N"]))?;
        let ports = Ports::reserve(1)?;
        let mut words = with_user(&program);
        words.extend([
            "-D".to_owned(),
            data.display().to_string(),
            "-p".to_owned(),
            ports.address(0).port().to_string(),
        ]);
        words.extend(["-h", "127.0.0.1", "-k", ""].map(str::to_owned));
        let first = PathBuf::from(words.remove(0));
        leashed("postgres", &first, &words, ports, scratch).map(Some)
    }

    /// On 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.ports.address(0).port()
    }

    /// Ends the server of a test that was passed.
    pub fn finish(self) {
        let Database { _process, scratch, .. } = self;
        drop(_process);
        scratch.finish();
    }
}

fn leashed(name: &str, program: &Path, arguments: &[String], ports: Ports, scratch: Scratch) -> Result<Database> {
    let program = program.display().to_string();
    let mut words = vec!["-c", LEASH, "leash", &program];
    words.extend(arguments.iter().map(String::as_str));
    let process = Process::spawn(name, Path::new("sh"), &words, &scratch.path().join("log"))?;
    Ok(Database {
        _process: process,
        ports,
        scratch,
    })
}

/// Where a program is; `None` (and a word) when it is nowhere, which in CI is a failure.
fn find(program: &str) -> Result<Option<PathBuf>> {
    // Debian keeps servers where an ordinary user's PATH does not lead.
    let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    folders.push("/usr/sbin".into());
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    let found = folders
        .into_iter()
        .map(|folder| folder.join(program))
        .find(|at| at.is_file());
    if found.is_none() {
        ensure!(std::env::var_os("CI").is_none(), "needs {program}");
        eprintln!("skipped: needs {program}");
    }
    Ok(found)
}

fn user() -> Result<String> {
    let out = Command::new("id").arg("-un").output().context("run id")?;
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

fn run(command: &mut Command) -> Result<()> {
    let out = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}
