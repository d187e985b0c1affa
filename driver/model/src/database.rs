use std::str::FromStr;
use std::time::Duration;

use sqlx::MySqlPool;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use time::{OffsetDateTime, PrimitiveDateTime};

/// The pool of connections to Zun's database.
pub type Database = MySqlPool;

/// Why a row could not be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("Zun's database: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("container {0} could not be found")]
    NoContainer(crate::ContainerUuid),
    #[error("registry {0} could not be found")]
    NoRegistry(i32),
    #[error("the password of registry {0} cannot be decrypted with [DEFAULT] auth_encryption_key")]
    Decrypt(i32),
    #[error("a value cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// `[database] connection`, an SQLAlchemy URL of MySQL or MariaDB.
#[derive(Clone)]
pub struct DatabaseUrl(MySqlConnectOptions);

/// The URL names a database that is not supported. The text does not repeat the URL, which holds a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedUrl {
    /// Another kind of database.
    #[error("[database] connection: {0}:// is not supported, mysql+pymysql:// is")]
    Scheme(String),
    /// No URL at all.
    #[error("[database] connection is not a valid URL")]
    Malformed,
}

impl FromStr for DatabaseUrl {
    type Err = UnsupportedUrl;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").ok_or(UnsupportedUrl::Malformed)?;
        let dialect = scheme.split('+').next().unwrap_or_default();
        if !matches!(dialect, "mysql" | "mariadb") {
            return Err(UnsupportedUrl::Scheme(scheme.to_owned()));
        }
        // The query holds options of SQLAlchemy's driver, such as charset.
        let address = rest.split('?').next().unwrap_or_default();
        let options = MySqlConnectOptions::from_str(&format!("mysql://{address}"));
        options.map(Self).map_err(|_| UnsupportedUrl::Malformed)
    }
}

impl DatabaseUrl {
    /// A pool that connects when it is first used.
    pub fn pool(&self, max_connections: u32) -> Database {
        MySqlPoolOptions::new()
            .max_connections(max_connections.max(1))
            .acquire_timeout(Duration::from_secs(30))
            .connect_lazy_with(self.0.clone())
    }
}

/// Now, as the tables keep it.
pub(crate) fn now() -> PrimitiveDateTime {
    let now = OffsetDateTime::now_utc();
    PrimitiveDateTime::new(now.date(), now.time())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> Option<UnsupportedUrl> {
        text.parse::<DatabaseUrl>().err()
    }

    #[test]
    fn sqlalchemy_urls_of_mysql_are_taken() {
        for good in
            ["mysql+pymysql://u:p@127.0.0.1/zun?charset=utf8", "mysql://u:p@h:3307/zun", "mariadb://u@h/zun"]
        {
            assert_eq!(error(good), None, "{good}");
        }
    }

    #[test]
    fn other_databases_are_named() {
        assert_eq!(error("sqlite:////tmp/x"), Some(UnsupportedUrl::Scheme("sqlite".into())));
        assert_eq!(
            error("postgresql+psycopg2://h/x"),
            Some(UnsupportedUrl::Scheme("postgresql+psycopg2".into()))
        );
        assert_eq!(error("nonsense"), Some(UnsupportedUrl::Malformed));
    }
}
