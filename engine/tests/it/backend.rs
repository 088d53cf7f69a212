//! The databases that every test of a durable promise runs on, by one macro.

use dandori::{
    Engine, EngineBuilder, SessionId,
    store::{CrashPoint, PostgresOptions, PostgresStore, Store},
};

use crate::cluster::Cluster;

/// A kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
    /// PostgreSQL with a mistake that the tests must notice.
    #[cfg_attr(
        not(feature = "broken"),
        expect(dead_code, reason = "made with the feature only")
    )]
    Broken(&'static str),
}

/// Runs tests on SQLite and on PostgreSQL. Each takes the database it runs on.
macro_rules! on_both {
    ($($(#[$meta:meta])* async fn $name:ident($backend:ident) $body:block)*) => {
        $($(#[$meta])* pub(crate) async fn $name($backend: $crate::backend::Backend) $body)*

        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::backend::Backend::Sqlite).await;
            })*
        }

        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::backend::Backend::Postgres).await;
            })*
        }
    };
}
pub(crate) use on_both;

/// An open store on a fresh database, which is removed with it.
pub(crate) async fn fresh(backend: Backend) -> Store {
    match backend {
        Backend::Sqlite => Store::open_temporary().await.unwrap(),
        _ => Database::fresh(backend).open().await,
    }
}

/// A fresh database of a kind. Opened again, it is the same.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) backend: Backend,
    /// A path or an address.
    pub(crate) place: String,
    _folder: Option<std::sync::Arc<tempfile::TempDir>>,
}

impl Database {
    pub(crate) fn fresh(backend: Backend) -> Self {
        match backend {
            Backend::Sqlite => {
                let folder = tempfile::tempdir().unwrap();
                let place = folder.path().join("dandori.db").display().to_string();
                Self { backend, place, _folder: Some(folder.into()) }
            }
            _ => Self { backend, place: Cluster::shared().fresh(), _folder: None },
        }
    }

    /// A database at a place.
    pub(crate) fn at(backend: Backend, place: String) -> Self {
        Self { backend, place, _folder: None }
    }

    /// A database in a folder that the caller keeps.
    pub(crate) fn within(backend: Backend, folder: &tempfile::TempDir) -> Self {
        match backend {
            Backend::Sqlite => {
                let place = folder.path().join("dandori.db").display().to_string();
                Self { backend, place, _folder: None }
            }
            _ => Self::fresh(backend),
        }
    }

    /// A store that dies where `crash` says so.
    pub(crate) async fn open_for_crashes(
        &self,
        crash: impl Fn(CrashPoint) -> bool + Send + Sync + 'static,
    ) -> Store {
        match self.backend {
            Backend::Sqlite => {
                Store::open_for_crashes(self.place.as_ref(), crash).await.unwrap()
            }
            _ => {
                let options = PostgresOptions::new(&self.place);
                let store = PostgresStore::open_for_crashes(&options, crash).await;
                Store::Postgres(store.unwrap())
            }
        }
    }

    /// Everybody is dead: what leases would tell in time, the test knows now.
    pub(crate) async fn bury(&self) {
        if self.backend == Backend::Sqlite {
            return;
        }
        let store = self.open().await;
        let pulse = store.look(SessionId::fresh()).await.unwrap();
        for other in pulse.others.iter().chain(&pulse.late) {
            store.expire(other.id, other.beat, true).await.unwrap();
        }
        store.reap().await.unwrap();
    }

    pub(crate) async fn open(&self) -> Store {
        match self.backend {
            Backend::Sqlite => Store::open(self.place.as_ref(), true).await.unwrap(),
            Backend::Postgres => {
                Store::postgres(&PostgresOptions::new(&self.place)).await.unwrap()
            }
            #[cfg(feature = "broken")]
            Backend::Broken(how) => {
                let options = PostgresOptions::new(&self.place);
                Store::postgres_broken(&options, how).await.unwrap()
            }
            #[cfg(not(feature = "broken"))]
            Backend::Broken(how) => panic!("not in this build: {how}"),
        }
    }

    pub(crate) fn builder(&self) -> EngineBuilder {
        match self.backend {
            Backend::Sqlite => Engine::builder().sqlite(&self.place),
            _ => Engine::builder().postgres(&self.place),
        }
    }
}

/// Prints a measured figure of a promise, for the table of `scripts/test --full`.
#[expect(clippy::print_stdout, reason = "the table is made from what tests print")]
pub(crate) fn figure(line: &str, what: &str, measured: impl std::fmt::Display) {
    println!("FIGURE {line} | {what} | {measured}");
}
