//! Identities: [`ProjectId`] and [`SessionId`], both UUIDv7 (time-ordered).
//!
//! Owns the making of random ids. An id is no secret: it tells when it was made.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use uuid::Uuid;

/// The identity of a project: `prj_` and a UUIDv7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectId(Uuid);

/// The identity of one running worker process, fresh at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Uuid);

#[expect(clippy::disallowed_methods, reason = "the one place that makes ids")]
fn fresh() -> Uuid {
    Uuid::now_v7()
}

impl ProjectId {
    /// What every printed project id starts with.
    pub const PREFIX: &str = "prj_";

    /// Makes a new id.
    pub fn fresh() -> Self {
        Self(fresh())
    }

    /// Makes the id that belongs to an idempotency key: the same key, the same id, so
    /// that the primary key is the uniqueness.
    pub fn from_key(key: &str) -> Self {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(key.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    pub(crate) const fn uuid(self) -> Uuid {
        self.0
    }

    pub(crate) const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Returns the last eight characters: what lists show and commands accept.
    pub fn short(self) -> String {
        let text = self.0.simple().to_string();
        text[text.len() - 8..].to_owned()
    }
}

impl SessionId {
    /// Makes a new id.
    pub fn fresh() -> Self {
        Self(fresh())
    }

    pub(crate) const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    pub(crate) const fn uuid(self) -> Uuid {
        self.0
    }

    /// The UUID within.
    pub const fn into_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.0)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ses_{}", self.0)
    }
}

/// The text is not a project id.
#[derive(Debug, thiserror::Error)]
#[error("not a project id: {0:?}")]
pub struct InvalidId(String);

impl FromStr for ProjectId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix(Self::PREFIX)
            .and_then(|uuid| Uuid::try_parse(uuid).ok())
            .map(Self)
            .ok_or_else(|| InvalidId(text.chars().take(64).collect()))
    }
}

impl Serialize for ProjectId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProjectId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
