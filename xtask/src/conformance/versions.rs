//! `conformance/versions.toml`.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use serde::Deserialize;

/// All pins.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    pub seata: Seata,
    pub hessian: Hessian,
    pub bolt: Bolt,
}

/// What the bolt suite pins.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bolt {
    /// Of `com.alipay.sofa:bolt`.
    pub version: String,
    /// Of npm's `sofa-bolt-node`.
    pub node: String,
    pub slf4j: String,
    /// Of `com.alipay.sofa:sofa-rpc-all` and of what it uses, by the names of the properties in its pom.
    pub sofarpc: BTreeMap<String, String>,
}

/// What the Hessian suite pins.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hessian {
    /// The servlet API, which Caucho's test service needs.
    pub servlet: String,
    /// Packages of the JDK that are opened to the libraries.
    pub open: Vec<String>,
    pub peer: Vec<HessianPeer>,
    pub npm: HessianNpm,
}

/// Packages of npm.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HessianNpm {
    #[serde(rename = "hessian.js")]
    pub hessian_js: String,
    pub sofa_hessian_node: String,
}

/// One library on the other side.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HessianPeer {
    /// What `--peer` and the table call it.
    pub name: String,
    pub group: String,
    pub artifact: String,
    pub version: String,
    /// Root package of its classes.
    pub package: String,
    pub dialect: HessianDialect,
}

/// How a library writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HessianDialect {
    Sofa3,
    Hessian2,
    Hessian2Caucho,
}

/// What the Seata suite pins.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Seata {
    pub mysql_connector: String,
    pub jackson: String,
    pub slf4j: String,
    /// Of lz4-java, which the client's compressor lz4 needs.
    pub lz4: String,
    pub client: Vec<Client>,
    pub server: Server,
}

/// One client under test.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Client {
    /// What `--client` and the table call it.
    pub name: String,
    #[serde(default)]
    pub language: Language,
    /// Of Java's: the group of `seata-all`. Of Go's: the module.
    pub group: String,
    pub version: String,
    /// Root package of its classes, if it is Java's; so are the next two.
    #[serde(default)]
    pub package: String,
    /// The class that gives the TCC fence its data source.
    #[serde(default)]
    pub fence_config: String,
    #[serde(default)]
    pub spring: String,
    /// `transport.serialization`, when it is not the client's default.
    #[serde(default)]
    pub serialization: Serialization,
    /// `transport.compressor`, when it is not the client's default.
    pub compressor: Option<String>,
    /// `transport.protocol`, when it is not the client's default.
    #[serde(default)]
    pub protocol: Protocol,
    /// It has annotated sagas (2.3 and later).
    #[serde(default)]
    pub saga_annotation: bool,
    /// No saga is carried on by another process, whatever the server. In 2.2 and 2.3 the server's call reaches the
    /// resource manager of the old package, which the client has beside its own and which has no engine; in 1.5 and 2.0
    /// `replayContextVariables` of the engine takes up what a saga was started with only if there is nothing.
    #[serde(default)]
    pub saga_recovery_broken: bool,
    /// Its transactional template takes any answer to a commit for success, so that whoever wants to know asks for the
    /// transaction's status (1.5).
    #[serde(default)]
    pub commit_is_blind: bool,
    /// CI runs it too.
    #[serde(default)]
    pub ci: bool,
}

/// What a client is written in.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Language {
    #[default]
    Java,
    /// It sends its messages over any of its connections, registered or not, so it gets one address alone; and it registers
    /// its resources once in its life, so it is started again when that connection is gone.
    Go,
}

/// How a client writes its messages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serialization {
    #[default]
    Seata,
    Protobuf,
}

/// How a client sends its messages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    #[default]
    Seata,
    Grpc,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Seata => "seata",
            Protocol::Grpc => "grpc",
        }
    }
}

impl Client {
    /// How its messages are written and sent, for the matrix.
    pub fn wire(&self) -> String {
        let compressor = self.compressor.as_deref().unwrap_or("none");
        format!("{}/{}/{compressor}", self.serialization.name(), self.protocol.name())
    }
}

impl Serialization {
    pub fn name(self) -> &'static str {
        match self {
            Serialization::Seata => "seata",
            Serialization::Protobuf => "protobuf",
        }
    }
}

/// The original server.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Server {
    pub group: String,
    pub version: String,
}

/// Reads the pins from `path`.
pub fn read(path: &Path) -> Result<Versions> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_versions_name_a_client_of_each_package_root_and_serializer() {
        let pins = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/versions.toml")).unwrap();
        for serialization in [Serialization::Seata, Serialization::Protobuf] {
            let clients = pins
                .seata
                .client
                .iter()
                .filter(|client| client.ci && client.serialization == serialization);
            let roots: Vec<&str> = clients.map(|client| client.package.as_str()).collect();
            assert_eq!(roots, ["io.seata", "org.apache.seata"], "in CI");
        }
    }
}
