//! Private database servers: own folder and port, gone with the test.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use settle_testkit::{Ports, Process, Scratch, until};
use sqlx::{
    MySqlPool, PgPool,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
    postgres::{PgConnectOptions, PgPoolOptions},
};

const UP_WITHIN: Duration = Duration::from_secs(90);
/// A server dies with the pipe that its leash reads, so with the test, however that ends.
const LEASH: &str = r#"
exec 3<&0
"$@" </dev/null & child=$!
(cat <&3 >/dev/null; kill -9 $child) & watch=$!
wait $child; kill $watch
"#;

pub struct Server {
    _process: Process,
    _ports: Ports,
    scratch: Scratch,
}

impl Server {
    pub fn finish(self) {
        let Server { _process, scratch, .. } = self;
        drop(_process);
        scratch.finish();
    }
}

/// A MariaDB with an empty database; `None` where there is no MariaDB and none is asked for.
pub async fn mariadb() -> Result<Option<(Server, MySqlPool)>> {
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
    let installed = Command::new(install)
        .args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ])
        .arg(format!("--user={user}"))
        .arg(format!("--datadir={}", data.display()))
        .env("TMPDIR", &temp)
        .output()?;
    ensure!(
        installed.status.success(),
        "mariadb-install-db: {}",
        String::from_utf8_lossy(&installed.stderr)
    );
    let ports = Ports::reserve(1)?;
    let address = ports.address(0);
    let socket = scratch.path().join("db.sock");
    let arguments = [
        "--no-defaults".to_owned(),
        format!("--user={user}"),
        format!("--datadir={}", data.display()),
        format!("--tmpdir={}", temp.display()),
        format!("--socket={}", socket.display()),
        format!("--port={}", address.port()),
        "--bind-address=127.0.0.1".to_owned(),
        "--skip-name-resolve".to_owned(),
        "--skip-grant-tables".to_owned(),
    ];
    let server = leashed("mariadbd", &program, &arguments, ports, scratch)?;
    let options = MySqlConnectOptions::new()
        .host("127.0.0.1")
        .port(address.port())
        .username("root");
    let pool = until("mariadbd answers", UP_WITHIN, async || {
        let root = MySqlPoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await?;
        sqlx::query("CREATE DATABASE IF NOT EXISTS bank").execute(&root).await?;
        root.close().await;
        MySqlPoolOptions::new()
            .max_connections(4)
            .connect_with(options.clone().database("bank"))
            .await
    });
    Ok(Some((server, pool.await?)))
}

/// A PostgreSQL; `None` where there is none and none is asked for.
pub async fn postgres() -> Result<Option<(Server, PgPool)>> {
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
    let address = ports.address(0);
    let mut words = with_user(&program);
    words.extend([
        "-D".to_owned(),
        data.display().to_string(),
        "-p".to_owned(),
        address.port().to_string(),
    ]);
    words.extend(["-h", "127.0.0.1", "-k", ""].map(str::to_owned));
    let first = PathBuf::from(words.remove(0));
    let server = leashed("postgres", &first, &words, ports, scratch)?;
    let options = PgConnectOptions::new()
        .host("127.0.0.1")
        .port(address.port())
        .username("bank")
        .database("postgres");
    let pool = until("postgres answers", UP_WITHIN, async || {
        PgPoolOptions::new()
            .max_connections(4)
            .connect_with(options.clone())
            .await
    });
    Ok(Some((server, pool.await?)))
}

fn leashed(name: &str, program: &Path, arguments: &[String], ports: Ports, scratch: Scratch) -> Result<Server> {
    let program = program.display().to_string();
    let mut words = vec!["-c", LEASH, "leash", &program];
    words.extend(arguments.iter().map(String::as_str));
    let process = Process::spawn(name, Path::new("sh"), &words, &scratch.path().join("log"))?;
    Ok(Server {
        _process: process,
        _ports: ports,
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
