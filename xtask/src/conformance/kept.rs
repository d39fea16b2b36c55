//! What runs came to, one file for each, so that the whole matrix can be played in several sessions, also at once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::cases::{Case, Place, Plan, Scenario};
use super::report::{Finding, Row};

/// The results under one directory.
pub struct Kept {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Record {
    client: String,
    case: String,
    scenario: String,
    place: String,
    /// None when it passed.
    failure: Option<String>,
    told: String,
    balances: String,
    stall_ms: Option<u64>,
    settled_ms: Option<u64>,
    defence_rows: usize,
    note: String,
}

impl Kept {
    pub fn open(dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self { dir })
    }

    fn path(&self, client: &str, case: Case, scenario: Scenario, place: &str) -> PathBuf {
        let (case, scenario) = (case.name(), scenario.name());
        self.dir.join(format!("{client}.{case}.{scenario}.{place}.json"))
    }

    /// Whether it was played before, and passed.
    pub fn has_passed(&self, client: &str, plan: Plan) -> Result<bool> {
        let path = self.path(client, plan.case, plan.scenario, plan.place.name());
        Ok(path.exists() && read(&path)?.failure.is_none())
    }

    pub fn keep(&self, row: &Row) -> Result<()> {
        let (failure, finding) = match &row.outcome {
            Ok(finding) => (None, finding.clone()),
            Err(failure) => (Some(failure.clone()), Finding::default()),
        };
        let millis = |time: Duration| time.as_millis() as u64;
        let record = Record {
            client: row.client.clone(),
            case: row.case.name().to_owned(),
            scenario: row.scenario.name().to_owned(),
            place: row.place.to_owned(),
            failure,
            told: finding.told,
            balances: finding.balances,
            stall_ms: finding.stall.map(millis),
            settled_ms: finding.settled.map(millis),
            defence_rows: finding.defence_rows,
            note: finding.note,
        };
        let path = self.path(&row.client, row.case, row.scenario, row.place);
        std::fs::write(&path, serde_json::to_string_pretty(&record)?)
            .with_context(|| format!("write {}", path.display()))
    }

    /// All of them, by their names; one whose case is no more is left out.
    pub fn all(&self) -> Result<Vec<Row>> {
        let entries: Result<Vec<_>, _> = std::fs::read_dir(&self.dir)?.collect();
        let mut paths: Vec<PathBuf> = entries?.into_iter().map(|entry| entry.path()).collect();
        paths.sort();
        let mut rows = Vec::new();
        for path in paths {
            rows.extend(row(read(&path)?));
        }
        Ok(rows)
    }
}

fn read(path: &Path) -> Result<Record> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

fn row(record: Record) -> Option<Row> {
    let place = Place::value_variants()
        .iter()
        .find(|place| place.name() == record.place)?;
    let finding = Finding {
        told: record.told,
        balances: record.balances,
        stall: record.stall_ms.map(Duration::from_millis),
        settled: record.settled_ms.map(Duration::from_millis),
        defence_rows: record.defence_rows,
        note: record.note,
    };
    Some(Row {
        client: record.client,
        case: *Case::value_variants().iter().find(|case| case.name() == record.case)?,
        scenario: *Scenario::value_variants()
            .iter()
            .find(|scenario| scenario.name() == record.scenario)?,
        place: place.name(),
        outcome: record.failure.map_or(Ok(finding), Err),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_is_not_played_again_and_what_failed_is() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path().to_owned()).unwrap();
        let plan = Plan {
            case: Case::TccCommit,
            scenario: Scenario::KillPhase2,
            place: Place::Survivor,
        };
        let row = |outcome| Row {
            client: "1.8.0".to_owned(),
            case: plan.case,
            scenario: plan.scenario,
            place: plan.place.name(),
            outcome,
        };
        assert!(!kept.has_passed("1.8.0", plan).unwrap());
        kept.keep(&row(Err("money is gone".to_owned()))).unwrap();
        assert!(!kept.has_passed("1.8.0", plan).unwrap());
        let finding = Finding {
            told: "committed".to_owned(),
            stall: Some(Duration::from_millis(812)),
            ..Finding::default()
        };
        kept.keep(&row(Ok(finding))).unwrap();
        assert!(kept.has_passed("1.8.0", plan).unwrap());
        let all = kept.all().unwrap();
        let [row] = all.as_slice() else {
            panic!("one run was played")
        };
        assert_eq!(row.outcome.as_ref().unwrap().stall, Some(Duration::from_millis(812)));
    }
}
