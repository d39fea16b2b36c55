//! `conformance/versions.toml`.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    seata: Seata,
}

/// What the Seata suite pins.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Seata {
    pub mysql_connector: String,
    pub jackson: String,
    pub slf4j: String,
    pub client: Vec<Client>,
    pub server: Server,
}

/// One client under test.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Client {
    /// What `--client` and the table call it.
    pub name: String,
    pub group: String,
    pub version: String,
    /// Root package of its classes.
    pub package: String,
    /// The class that gives the TCC fence its data source.
    pub fence_config: String,
    pub spring: String,
}

/// The original server.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Server {
    pub group: String,
    pub version: String,
}

/// Reads the pins from `path`.
pub fn read(path: &Path) -> Result<Seata> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let file: File = toml::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
    Ok(file.seata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_versions_name_a_client_of_each_package_root() {
        let pins = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/versions.toml")).unwrap();
        let roots: Vec<&str> = pins.client.iter().map(|client| client.package.as_str()).collect();
        assert_eq!(roots, ["io.seata", "org.apache.seata"]);
    }
}
