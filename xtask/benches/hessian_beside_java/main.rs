//! Started by `cargo xtask compare hessian`, which builds the Java side: the same messages written and read by the Java
//! libraries and by us in one run, in turn, so that what else the machine does meets all alike. Both sides read the
//! bytes that Java wrote. What is told is CPU time: here of the thread that works, which also gives its memory back, in
//! Java of the whole process, since there the collector does that. Java's compiler is done by then.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a bench reads a clock")]

#[path = "../hessian/cases.rs"]
mod cases;

use std::{
    borrow::Cow,
    env,
    hint::black_box,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use rustix::time::{ClockId, clock_gettime};
use settle_hessian::{DecodeOptions, Dialect, HessianDecode, HessianEncode, Writer, from_bytes};

/// What the design asks for.
const GOAL: f64 = 2.5;
/// Rounds before it counts, for Java's compiler.
const WARM_UP: usize = 10;

struct Java {
    name: String,
    dialect: Dialect,
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Java {
    /// `words` are a name, a dialect and a class path.
    fn start(words: &[String], open: &[String]) -> Java {
        let [name, dialect, class_path] = words else {
            panic!("a library is told by a name, a dialect and a class path")
        };
        let mut command = Command::new("java");
        for package in open {
            command.arg("--add-opens").arg(format!("{package}=ALL-UNNAMED"));
        }
        let mut child = command
            .args(["-cp", class_path, "settle.hessian.Bench"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Java {
            name: name.clone(),
            dialect: match dialect.as_str() {
                "sofa3" => Dialect::Sofa3,
                _ => Dialect::Hessian2,
            },
            orders: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn ask(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the Java side of {} ended at {order:?}", self.name);
        line.trim_end().to_owned()
    }

    fn bytes(&mut self, case: &str) -> Vec<u8> {
        let hex = self.ask(&format!("bytes {case} 0"));
        let pairs = (0..hex.len()).step_by(2);
        pairs
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }
}

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Nanoseconds of CPU that `work` takes, over `round`.
fn measure<T>(round: Duration, work: impl Fn() -> T) -> f64 {
    let (start, cpu) = (Instant::now(), cpu_time());
    let mut count = 0u32;
    while start.elapsed() < round {
        for _ in 0..8 {
            black_box(work());
        }
        count += 8;
    }
    (cpu_time() - cpu).as_nanos() as f64 / f64::from(count)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

struct Run {
    rounds: usize,
    round: Duration,
    below: usize,
}

impl Run {
    fn case<T>(&mut self, java: &mut Java, case: &str, value: &T)
    where
        T: HessianEncode + for<'a> HessianDecode<'a>,
    {
        let bytes = java.bytes(case);
        let options = DecodeOptions::new(java.dialect);
        let out = std::cell::RefCell::new(BytesMut::with_capacity(2 * bytes.len()));
        let encode = || {
            let mut out = out.borrow_mut();
            out.clear();
            value.encode(&mut Writer::new(java.dialect, &mut out)).unwrap();
        };
        let decode = || drop(from_bytes::<T>(black_box(&bytes), &options).unwrap());
        let borrow = || drop(from_bytes::<cases::Order<Cow<'_, str>>>(black_box(&bytes), &options).unwrap());
        for direction in ["encode", "decode", "borrow"] {
            if direction == "borrow" && case != "order" {
                continue;
            }
            // Java has no text that is left where it came.
            let ordered = direction.replace("borrow", "decode");
            let order = format!("{ordered} {case} {}", self.round.as_millis());
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for index in 0..WARM_UP + self.rounds {
                let java_took: f64 = {
                    writeln!(java.orders, "{order}").unwrap();
                    let mut line = String::new();
                    java.answers.read_line(&mut line).unwrap();
                    line.trim_end().parse().unwrap()
                };
                let we_took = match direction {
                    "encode" => measure(self.round, encode),
                    "decode" => measure(self.round, decode),
                    _ => measure(self.round, borrow),
                };
                if index >= WARM_UP {
                    ours.push(we_took);
                    theirs.push(java_took);
                }
            }
            let ratio = median(ours.iter().zip(&theirs).map(|(ours, theirs)| theirs / ours).collect());
            let (ours, theirs) = (median(ours), median(theirs));
            let verdict = if ratio < GOAL { "  below the goal" } else { "" };
            self.below += usize::from(ratio < GOAL);
            println!(
                "{:<14} {case:<6} {direction:<7} {:>8} {theirs:>12.0} {ours:>12.0} {:>9.0} {ratio:>6.1}{verdict}",
                java.name,
                bytes.len(),
                bytes.len() as f64 * 1e3 / ours,
            );
        }
    }
}

fn main() -> ExitCode {
    // Without the Java side there is nothing to do, as when all benches run.
    let Ok(java) = env::var("SETTLE_HESSIAN_JAVA") else {
        println!("skipped: started by `cargo xtask compare hessian`");
        return ExitCode::SUCCESS;
    };
    let number = |name: &str, otherwise: u64| env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let mut run = Run {
        rounds: number("SETTLE_HESSIAN_ROUNDS", 9) as usize,
        round: Duration::from_millis(number("SETTLE_HESSIAN_ROUND_MS", 300)),
        below: 0,
    };
    let lines: Vec<Vec<String>> = java
        .lines()
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect();
    let (open, libraries) = lines.split_first().expect("the first line names what Java opens");
    println!("library        message  way        bytes   Java ns/op   here ns/op here MB/s  ratio");
    for words in libraries {
        let mut java = Java::start(words, open);
        run.case(&mut java, "order", &cases::order());
        run.case(&mut java, "map", &cases::map());
        run.case(&mut java, "ints", &cases::ints());
        let Java { mut child, orders, .. } = java;
        drop(orders);
        child.wait().unwrap();
    }
    println!("{} below {GOAL} times Java's speed", run.below);
    ExitCode::from(u8::from(run.below > 0))
}
