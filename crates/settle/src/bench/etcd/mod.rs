//! The same load on Settle's replication and on etcd, in turn, on one machine and one disk.

mod client;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use serde::Serialize;

use self::client::Client;
use super::{
    process,
    raft::{Ours, cluster::free_ports},
    report::{Latency, grouped},
    tx::duration,
};

#[derive(clap::Args, Debug)]
pub struct EtcdArgs {
    /// Writes under way at once, in turn.
    #[arg(long, value_delimiter = ',', default_value = "64,1024")]
    in_flight: Vec<u32>,
    /// How often both are measured, one after the other.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How long to measure each.
    #[arg(long, default_value = "10s", value_parser = duration)]
    time: Duration,
    /// How long to run before that.
    #[arg(long, default_value = "2s", value_parser = duration)]
    warm_up: Duration,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    connections: u32,
    /// The disk that both use.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// etcd's program.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    #[arg(long)]
    json: bool,
}

/// What is promised: writes for each second of the servers' CPU, as a multiple of etcd's.
const RATIO_MIN: f64 = 4.0;
const READY_WITHIN: Duration = Duration::from_secs(30);

/// One measurement of three servers together.
#[derive(Serialize, Clone, Debug)]
pub struct Side {
    pub in_flight: u32,
    pub per_second: f64,
    pub latency: Latency,
    pub cpu_us_per_write: f64,
}

#[derive(Serialize, Debug)]
struct Pair {
    round: u32,
    settle: Side,
    etcd: Side,
}

pub async fn run(args: EtcdArgs) -> anyhow::Result<()> {
    let etcd = Etcd::start(&args).await?;
    let ours = Ours::start(&args.dir)?;
    let mut pairs = Vec::new();
    for round in 1..=args.rounds {
        for &in_flight in &args.in_flight {
            let settle = ours
                .measure(in_flight, args.connections, args.warm_up, args.time)
                .await?;
            let etcd = etcd.measure(in_flight, &args).await?;
            let pair = Pair { round, settle, etcd };
            if !args.json {
                print(&pair);
            }
            pairs.push(pair);
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&pairs)?);
    }
    let mut worst = f64::INFINITY;
    for &in_flight in &args.in_flight {
        let of_load = pairs.iter().filter(|pair| pair.settle.in_flight == in_flight);
        let mut ratios: Vec<f64> = of_load.map(Pair::cpu_ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let median = ratios[ratios.len() / 2];
        worst = worst.min(median);
        if !args.json {
            println!("{in_flight} under way: {median:.1} times etcd's writes for each second of CPU (median)");
        }
    }
    ensure!(
        worst >= RATIO_MIN,
        "less than {RATIO_MIN} times etcd's writes for each second of CPU"
    );
    Ok(())
}

impl Pair {
    fn cpu_ratio(&self) -> f64 {
        self.etcd.cpu_us_per_write / self.settle.cpu_us_per_write
    }
}

fn print(pair: &Pair) {
    println!("round {}, {} under way", pair.round, pair.settle.in_flight);
    for (name, side) in [("settle", &pair.settle), ("etcd", &pair.etcd)] {
        println!(
            "  {name:<7} {:>9} writes each second   p50 {:>7} µs   p99 {:>7} µs   {:>6.1} µs of CPU each, three servers",
            grouped(side.per_second as u64),
            grouped(side.latency.p50_us),
            grouped(side.latency.p99_us),
            side.cpu_us_per_write
        );
    }
    println!(
        "  ratio   {:>9.1} in writes           {:.1} in writes for each second of CPU",
        pair.settle.per_second / pair.etcd.per_second,
        pair.cpu_ratio()
    );
}

/// Three etcd servers with fresh data, which goes with them.
struct Etcd {
    dir: PathBuf,
    children: Vec<Child>,
    leader: Arc<Client>,
}

impl Etcd {
    async fn start(args: &EtcdArgs) -> anyhow::Result<Etcd> {
        let dir = args.dir.join(format!("settle-bench-etcd-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let ports = free_ports(6)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = (0..3).map(|i| format!("n{i}={}", url(ports[i]))).collect();
        let mut children = Children(Vec::new());
        for i in 0..3 {
            let log = std::fs::File::create(dir.join(format!("n{i}.log")))?;
            let child = Command::new(&args.etcd)
                .args(["--name", &format!("n{i}"), "--data-dir"])
                .arg(dir.join(format!("n{i}")))
                .args(["--listen-peer-urls", &url(ports[i])])
                .args(["--initial-advertise-peer-urls", &url(ports[i])])
                .args([
                    "--listen-client-urls",
                    &url(ports[3 + i]),
                    "--advertise-client-urls",
                    &url(ports[3 + i]),
                ])
                .args([
                    "--initial-cluster",
                    &cluster.join(","),
                    "--initial-cluster-state",
                    "new",
                ])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .with_context(|| format!("cannot start {}", args.etcd.display()))?;
            children.0.push(child);
        }
        let clients = ports[3..]
            .iter()
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, *port)));
        let leader = leader(&clients.collect::<Vec<_>>(), args.connections, &dir).await?;
        Ok(Etcd {
            dir,
            children: std::mem::take(&mut children.0),
            leader: Arc::new(leader),
        })
    }

    async fn measure(&self, in_flight: u32, args: &EtcdArgs) -> anyhow::Result<Side> {
        let pids: Vec<u32> = self.children.iter().map(Child::id).collect();
        let mut used = Vec::new();
        let reading = || {
            used.push(process::usage(&pids)?.cpu_micros);
            Ok(())
        };
        let latency = self.leader.drive(in_flight, args.warm_up, args.time, reading).await?;
        let writes = latency.len() as f64;
        Ok(Side {
            in_flight,
            per_second: writes / args.time.as_secs_f64(),
            latency: Latency::of(&latency),
            cpu_us_per_write: (used[1] - used[0]) as f64 / writes,
        })
    }
}

/// Ends what was started when the rest of the start fails.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(Children(std::mem::take(&mut self.children)));
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn leader(clients: &[SocketAddr], connections: u32, dir: &Path) -> anyhow::Result<Client> {
    let waiting = async {
        loop {
            for address in clients {
                if let Ok(client) = Client::connect(*address, connections).await
                    && client.leads().await.unwrap_or(false)
                {
                    return client;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let found = tokio::time::timeout(READY_WITHIN, waiting).await;
    found.with_context(|| format!("etcd elects nobody; its logs are in {}", dir.display()))
}
