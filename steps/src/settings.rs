//! [`Settings`]: what the worker, and never a document, decides about the kinds.
//!
//! Owns the environment variables and the limits. Does not open anything.

use std::{env, fmt, path::PathBuf, time::Duration};

/// A key that never shows itself: `Debug` prints `***`, and it cannot be serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a key.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Returns the key itself, to be put into a request and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Replaces the key in a text by `***`: some services repeat it in their errors.
    pub(crate) fn redact(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(&self.0, "***") }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Which addresses `http.request` may reach.
///
/// The addresses of search and of the language model come from the operator and are not
/// restricted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Network {
    /// Every address the worker can reach: the choice for one's own machine.
    #[default]
    Any,
    /// Only public addresses: the choice where strangers submit documents.
    Public,
}

/// Settings of the worker; addresses and models are never stored inputs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Address of the search service; `None` for the usual one of the provider.
    pub search_url: Option<String>,
    /// Which search service: `mediawiki` (the default), `searxng`, `brave`, `tavily`.
    pub search_provider: Option<String>,
    /// Key of the search service.
    pub search_api_key: Option<Secret>,
    /// Base address of an OpenAI-compatible service, such as `http://127.0.0.1:1234/v1`.
    pub llm_url: Option<String>,
    /// Model for steps that name none.
    pub llm_model: Option<String>,
    /// Key of the service.
    pub llm_api_key: Option<Secret>,
    /// The folder that steps may read and write beneath.
    pub files_root: PathBuf,
    /// Files that steps neither read nor write, such as the database of the engine.
    pub protected: Vec<PathBuf>,
    /// Whether `shell.run` is switched on.
    pub allow_shell: bool,
    /// Which addresses `http.request` may reach.
    pub network: Network,
    /// Longest time to connect, 5 s.
    pub connect_timeout: Duration,
    /// Longest silence while an answer is read, and before one of a search, 30 s. A
    /// service called by `http.request` may work as long as the whole may take.
    pub idle_timeout: Duration,
    /// Longest silence of a language model, 10 min: it answers after it has thought.
    pub llm_timeout: Duration,
    /// Longest time for a request with its redirects, 10 min.
    pub total_timeout: Duration,
    /// Largest body that is read, in bytes after decoding, 10 MiB.
    pub max_body: usize,
    /// How long a told-to-stop child process has before it is killed, 5 s.
    pub kill_grace: Duration,
    /// Longest time of a `json.transform`, 30 s.
    pub transform_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            search_url: None,
            search_provider: None,
            search_api_key: None,
            llm_url: None,
            llm_model: None,
            llm_api_key: None,
            files_root: PathBuf::from("."),
            protected: vec![],
            allow_shell: false,
            network: Network::Any,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            llm_timeout: Duration::from_mins(10),
            total_timeout: Duration::from_mins(10),
            max_body: 10 * 1024 * 1024,
            kill_grace: Duration::from_secs(5),
            transform_timeout: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// Reads `DANDORI_SEARCH_URL`, `DANDORI_SEARCH_PROVIDER`, `DANDORI_SEARCH_API_KEY`,
    /// `DANDORI_LLM_URL`, `DANDORI_LLM_MODEL` and `DANDORI_LLM_API_KEY`; an empty value
    /// counts as none. Everything else has its default.
    pub fn from_env() -> Self {
        Self::from_lookup(|name| env::var(name).ok())
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let read = |name| {
            lookup(name).map(|v| v.trim().to_owned()).filter(|value| !value.is_empty())
        };
        Self {
            search_url: read("DANDORI_SEARCH_URL"),
            search_provider: read("DANDORI_SEARCH_PROVIDER"),
            search_api_key: read("DANDORI_SEARCH_API_KEY").map(Secret::new),
            llm_url: read("DANDORI_LLM_URL"),
            llm_model: read("DANDORI_LLM_MODEL"),
            llm_api_key: read("DANDORI_LLM_API_KEY").map(Secret::new),
            ..Self::default()
        }
    }

    /// Sets the search service and, if it is not the usual one, its address.
    #[must_use]
    pub fn with_search(
        mut self,
        provider: impl Into<String>,
        url: Option<String>,
    ) -> Self {
        self.search_provider = Some(provider.into());
        self.search_url = url;
        self
    }

    /// Sets the key of the search service.
    #[must_use]
    pub fn with_search_api_key(mut self, key: Secret) -> Self {
        self.search_api_key = Some(key);
        self
    }

    /// Sets the base address of the language model and the model for steps that name none.
    #[must_use]
    pub fn with_llm(mut self, url: impl Into<String>, model: Option<String>) -> Self {
        self.llm_url = Some(url.into());
        self.llm_model = model;
        self
    }

    /// Sets the key of the language model.
    #[must_use]
    pub fn with_llm_api_key(mut self, key: Secret) -> Self {
        self.llm_api_key = Some(key);
        self
    }

    /// Keeps steps away from a database file and the files that belong to it.
    #[must_use]
    pub fn with_protected_database(mut self, database: impl Into<PathBuf>) -> Self {
        let database = database.into();
        // What belongs to it stands beside the file itself, not beside a link to it.
        let database = database.canonicalize().unwrap_or(database);
        for ending in ["", "-wal", "-shm", ".lock"] {
            let mut name = database.clone().into_os_string();
            name.push(ending);
            self.protected.push(name.into());
        }
        self
    }

    /// Sets the folder that steps may read and write beneath.
    #[must_use]
    pub fn with_files_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.files_root = root.into();
        self
    }

    /// Switches `shell.run` on or off.
    #[must_use]
    pub fn with_allow_shell(mut self, allow: bool) -> Self {
        self.allow_shell = allow;
        self
    }

    /// Sets which addresses `http.request` may reach.
    #[must_use]
    pub fn with_network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// Sets the time limits of requests: to connect, of silence, and of everything.
    #[must_use]
    pub fn with_timeouts(
        mut self,
        connect: Duration,
        idle: Duration,
        total: Duration,
    ) -> Self {
        self.connect_timeout = connect;
        self.idle_timeout = idle;
        self.total_timeout = total;
        self
    }

    /// Sets the longest silence of a language model.
    #[must_use]
    pub fn with_llm_timeout(mut self, timeout: Duration) -> Self {
        self.llm_timeout = timeout;
        self
    }

    /// Sets the largest body that is read, in bytes after decoding.
    #[must_use]
    pub fn with_max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Sets how long a told-to-stop child process has before it is killed.
    #[must_use]
    pub fn with_kill_grace(mut self, grace: Duration) -> Self {
        self.kill_grace = grace;
        self
    }

    /// Sets the longest time of a `json.transform`.
    #[must_use]
    pub fn with_transform_timeout(mut self, timeout: Duration) -> Self {
        self.transform_timeout = timeout;
        self
    }
}

/// Why the kinds cannot be made from the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetupError {
    /// The folder for files is missing or not a folder.
    FilesRoot(String),
    /// No HTTP client can be made, for example without any root certificate.
    Client(String),
    /// A setting has a value that cannot be used: its name, and why.
    Setting(&'static str, String),
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FilesRoot(reason) => {
                write!(f, "cannot use the folder for files: {reason}")
            }
            Self::Client(reason) => write!(f, "cannot make an HTTP client: {reason}"),
            Self::Setting(name, reason) => write!(f, "cannot use {name}: {reason}"),
        }
    }
}

impl std::error::Error for SetupError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_settings_hides_keys() {
        let settings = Settings::default()
            .with_llm_api_key(Secret::new("sk-canary"))
            .with_search_api_key(Secret::new("canary-two"));
        let shown = format!("{settings:?} {settings:#?}");
        assert!(shown.contains("***"));
        assert!(!shown.contains("canary"));
    }

    #[test]
    fn empty_variables_count_as_none() {
        let settings = Settings::from_lookup(|name| match name {
            "DANDORI_LLM_URL" => Some(" http://127.0.0.1:1234/v1 ".to_owned()),
            _ => Some(String::new()),
        });
        assert_eq!(settings.llm_url.as_deref(), Some("http://127.0.0.1:1234/v1"));
        assert_eq!(settings.llm_model, None);
        assert_eq!(settings.search_api_key, None);
    }
}
