//! The connections of this node's own clients: who each one is, which resources it serves, how much it has in flight.

use std::{collections::BTreeSet, sync::Arc};

use settle_base::FixedMap;

use crate::{ConnId, GateConfig, GateError, Ident};

#[derive(Debug)]
pub(crate) struct Session {
    pub ip: String,
    pub port: u16,
    /// None until the channel has registered.
    pub ident: Option<Ident>,
    pub is_rm: bool,
    pub resources: BTreeSet<String>,
    /// As its last request said; see [`GateRequest::Call`](crate::GateRequest::Call).
    pub granted: Option<Arc<[String]>>,
    /// Requests not answered yet.
    pub in_flight: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    sessions: FixedMap<ConnId, Session>,
    in_flight: usize,
}

impl Sessions {
    pub fn open(&mut self, conn: ConnId, ip: String, port: u16, limit: usize) -> Result<(), GateError> {
        if self.sessions.len() >= limit {
            return Err(GateError::TooManySessions { limit });
        }
        let session = Session {
            ip,
            port,
            ident: None,
            is_rm: false,
            resources: BTreeSet::new(),
            granted: None,
            in_flight: 0,
        };
        let before = self.sessions.insert(conn, session);
        assert!(before.is_none(), "{conn} is opened once: ids are never used twice");
        Ok(())
    }

    pub fn close(&mut self, conn: ConnId) -> Option<Session> {
        let session = self.sessions.remove(&conn)?;
        self.in_flight -= session.in_flight;
        Some(session)
    }

    pub fn get(&self, conn: ConnId) -> Option<&Session> {
        self.sessions.get(&conn)
    }

    /// What the door says of the client with each request.
    pub fn grant(&mut self, conn: ConnId, granted: Option<Arc<[String]>>) {
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.granted = granted;
        }
    }

    /// The application that asks, if the door knows that it is what it says.
    pub fn caller(&self, conn: ConnId) -> Option<&str> {
        let session = self.sessions.get(&conn)?;
        session.granted.as_ref()?;
        Some(&session.ident.as_ref()?.application)
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The channel is a manager of `ident` from now on.
    pub fn register(&mut self, conn: ConnId, ident: Ident, config: &GateConfig) -> Result<&mut Session, GateError> {
        for (field, text) in [
            ("application id", &ident.application),
            ("service group", &ident.service_group),
            ("client version", &ident.version),
        ] {
            check_name(field, text, config.max_name_bytes)?;
        }
        // Branches keep `application:ip:port` of their client.
        if ident.application.contains(':') {
            return Err(GateError::BadApplicationId {
                application: ident.application,
            });
        }
        let session = self
            .sessions
            .get_mut(&conn)
            .ok_or(GateError::UnknownConnection { conn })?;
        match &session.ident {
            Some(first) if first.application != ident.application => {
                return Err(GateError::IdentityChanged {
                    conn,
                    first: first.application.clone(),
                    second: ident.application,
                });
            }
            _ => session.ident = Some(ident),
        }
        Ok(session)
    }

    /// The channel serves these resources too. True when that is news.
    pub fn add_resources(
        &mut self,
        conn: ConnId,
        resources: Vec<String>,
        config: &GateConfig,
    ) -> Result<bool, GateError> {
        let session = self
            .sessions
            .get_mut(&conn)
            .ok_or(GateError::UnknownConnection { conn })?;
        session.is_rm = true;
        let mut changed = false;
        for resource in resources {
            if resource.is_empty() || session.resources.contains(&resource) {
                continue;
            }
            check_name("resource id", &resource, config.max_resource_bytes)?;
            let limit = config.max_resources_per_session;
            if session.resources.len() >= limit {
                return Err(GateError::TooManyResources { conn, limit });
            }
            session.resources.insert(resource);
            changed = true;
        }
        Ok(changed)
    }

    /// The channel serves these resources no more (all, when none is named). True when that is news.
    pub fn remove_resources(&mut self, conn: ConnId, resources: &[String]) -> bool {
        let Some(session) = self.sessions.get_mut(&conn) else {
            return false;
        };
        let before = session.resources.len();
        match resources {
            [] => session.resources.clear(),
            named => session.resources.retain(|resource| !named.contains(resource)),
        }
        session.resources.len() != before
    }

    /// Counts one request in, if it fits.
    pub fn admit(&mut self, conn: ConnId, config: &GateConfig) -> Result<(), GateError> {
        let session = self
            .sessions
            .get_mut(&conn)
            .ok_or(GateError::UnknownConnection { conn })?;
        if self.in_flight >= config.max_in_flight {
            return Err(GateError::TooManyRequests {
                limit: config.max_in_flight,
            });
        }
        if session.in_flight >= config.max_in_flight_per_session {
            let limit = config.max_in_flight_per_session;
            return Err(GateError::TooManySessionRequests { conn, limit });
        }
        session.in_flight += 1;
        self.in_flight += 1;
        Ok(())
    }

    /// Counts one request out. False when its connection is gone and nobody waits.
    pub fn settle(&mut self, conn: ConnId) -> bool {
        let Some(session) = self.sessions.get_mut(&conn) else {
            return false;
        };
        assert!(
            session.in_flight > 0 && self.in_flight > 0,
            "{conn} is answered only what it asked"
        );
        session.in_flight -= 1;
        self.in_flight -= 1;
        true
    }
}

pub(crate) fn check_name(field: &'static str, text: &str, limit: usize) -> Result<(), GateError> {
    if text.len() > limit {
        return Err(GateError::NameTooLong {
            field,
            bytes: text.len(),
            limit,
        });
    }
    Ok(())
}
