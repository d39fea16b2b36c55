use settle_base::NodeId;
use settle_sim::{Cut, Scenario, Shape, Show, mutants::MUTANTS};

pub(crate) const USAGE: &str =
    "usage: settle-sim [--scenario NAME|all] [--seeds N] [--first N] [--threads N] [--no-coverage] [--mutant NAME]
       settle-sim --scenario NAME --seed S [--trace FILE] [--until SECONDS] [--show NODE|all] [--from SECONDS] [--step]
       settle-sim --scenario NAME --seed S --shrink
       settle-sim mutants
       settle-sim --mutant NAME --ranges N

  --scenario     raft, tx, or all (default)
  --seeds N      run seeds FIRST..FIRST+N (default 20), and after those from 0 on, the ones that once failed
  --first N      the first seed (default 0)
  --threads N    default: one per core
  --no-coverage  do not fail when something was not covered
  --seed S       run this seed only
  --trace FILE   write one line per event
  --script       print what happened as text
  --until T      stop at this simulated second
  --show NODE    print each turn of this node: what came, what it did, how it then is
  --from T       show only from this simulated second on
  --step         wait for Enter after each turn shown
  --shrink       when the seed fails, leave out faults, nodes, groups and clients as long as it fails alike,
                 and print what is left (also done by itself for the first failure of many seeds)
  --without ACTS leave out these acts of the nemesis (as a shrunk run names them: 3,4,10-17)
  --nodes N, --groups N, --clients N, --faults-until T, --no-hunts, --good-weather, --good-starts
                 smaller worlds, as a shrunk run names them
  --mutant NAME  with this deliberate bug; needs a build with `--cfg settle_mutants`
  --ranges N     how long it takes to catch the mutant, in each of N disjoint ranges of seeds
  mutants        print the deliberate bugs to be caught: name, scenario, seeds, meaning";

pub(crate) struct Arguments {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) seeds: u64,
    pub(crate) first: u64,
    pub(crate) seed: Option<u64>,
    pub(crate) trace: Option<String>,
    pub(crate) threads: usize,
    pub(crate) checks_coverage: bool,
    pub(crate) shape: Shape,
    pub(crate) cut: Cut,
    pub(crate) show: Option<Show>,
    pub(crate) prints_script: bool,
    pub(crate) shrinks: bool,
    pub(crate) mutant: Option<String>,
    pub(crate) ranges: u64,
}

impl Arguments {
    pub(crate) fn parse(words: &[String]) -> Result<Arguments, String> {
        let mut arguments = Arguments {
            scenarios: Scenario::ALL.to_vec(),
            seeds: 20,
            first: 0,
            seed: None,
            trace: None,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            checks_coverage: true,
            shape: Shape::default(),
            cut: Cut::default(),
            show: None,
            prints_script: false,
            shrinks: false,
            mutant: None,
            ranges: 0,
        };
        let mut words = words.iter();
        while let Some(flag) = words.next() {
            if !arguments.take_switch(flag) {
                let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
                arguments.take_value(flag, value)?;
            }
        }
        Ok(arguments)
    }

    fn show(&mut self) -> &mut Show {
        self.show.get_or_insert_default()
    }

    fn take_switch(&mut self, flag: &str) -> bool {
        match flag {
            "--no-coverage" => self.checks_coverage = false,
            "--script" => self.prints_script = true,
            "--shrink" => self.shrinks = true,
            "--step" => self.show().is_stepping = true,
            "--no-hunts" => self.cut.hunts_nobody = true,
            "--good-weather" => self.cut.has_good_weather = true,
            "--good-starts" => self.cut.starts_well = true,
            _ => return false,
        }
        true
    }

    fn take_value(&mut self, flag: &str, value: &str) -> Result<(), String> {
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{flag} needs a whole number, not `{value}`"))
        };
        let micros = || match value.parse::<f64>() {
            Ok(seconds) if (0.0..1e9).contains(&seconds) => Ok((seconds * 1e6).round() as u64),
            _ => Err(format!("{flag} needs seconds, not `{value}`")),
        };
        match flag {
            "--scenario" if value == "all" => self.scenarios = Scenario::ALL.to_vec(),
            "--scenario" => {
                let scenario = Scenario::from_name(value).ok_or_else(|| format!("no scenario `{value}`"))?;
                self.scenarios = vec![scenario];
            }
            "--seeds" => self.seeds = number()?,
            "--first" => self.first = number()?,
            "--seed" => self.seed = Some(number()?),
            "--trace" => self.trace = Some(value.to_owned()),
            "--until" => self.cut.until_us = Some(micros()?),
            "--from" => self.show().from_us = micros()?,
            "--show" if value == "all" => self.show().node = None,
            "--show" => self.show().node = Some(NodeId(number()?.min(99) as u32)),
            "--nodes" => self.cut.nodes = Some(number()?.clamp(1, 9) as u32),
            "--groups" => self.cut.groups = Some(number()?.max(1)),
            "--clients" => self.cut.clients = Some(number()?.max(1) as usize),
            "--faults-until" => self.cut.faults_us = Some(micros()?),
            "--without" => self.cut.without_acts = acts(value)?.collect(),
            "--mutant" => {
                if !MUTANTS.iter().any(|m| m.name == value) {
                    return Err(format!("no mutant `{value}`"));
                }
                self.mutant = Some(value.to_owned());
            }
            "--ranges" => self.ranges = number()?,
            "--threads" => self.threads = number()?.clamp(1, 64) as usize,
            _ => return Err(format!("unknown flag {flag}")),
        }
        Ok(())
    }
}

/// `3,4,10-17`.
fn acts(text: &str) -> Result<impl Iterator<Item = u64>, String> {
    let mut acts = Vec::new();
    for part in text.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        match (low.parse::<u64>(), high.parse::<u64>()) {
            (Ok(low), Ok(high)) if low <= high && high < 1 << 20 => acts.extend(low..=high),
            _ => return Err(format!("no acts: `{part}`")),
        }
    }
    Ok(acts.into_iter())
}
