use std::str::FromStr;
use std::time::Duration;

use sqlx::MySqlPool;
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlPoolOptions};
use time::{OffsetDateTime, PrimitiveDateTime};

/// The pool of connections to Zun's database.
pub type Database = MySqlPool;

/// How long one statement may take, the wait for a connection included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Times that a statement is tried in all, as oslo.db's `wrap_db_retry` does.
const TRIES: u32 = 6;
/// Before the second try; doubled before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// MariaDB's numbers of errors of a server that will take statements again: too many connections, a node that has no quorum or
/// is read-only, a shutdown, an interrupted statement, a connection that was killed.
const SERVER_ERRORS: [u16; 6] = [1040, 1047, 1053, 1290, 1317, 1927];
/// MariaDB's numbers of errors after which the same statement may succeed: a deadlock, and a lock that was waited for too long.
const LOCK_ERRORS: [u16; 2] = [1213, 1205];

/// Why a row could not be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("Zun's database: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("Zun's database did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    #[error("container {0} could not be found")]
    NoContainer(crate::uuid::ContainerUuid),
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
            .acquire_timeout(ANSWER_TIMEOUT)
            // A connection that was lost meanwhile shows when it is used, and the statement is tried again.
            .test_before_acquire(false)
            .connect_lazy_with(self.0.clone())
    }
}

/// Runs a statement that may be run twice: it is tried again after a deadlock and after a lost connection.
pub(crate) async fn idempotent<T, F>(statement: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    retry(statement, |error| error.is_lock_conflict() || error.is_lost_connection()).await
}

/// Runs a statement that must not be run twice: it is tried again only after a deadlock, which has undone it.
pub(crate) async fn once<T, F>(statement: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    retry(statement, Error::is_lock_conflict).await
}

async fn retry<T, F>(statement: impl Fn() -> F, may_retry: impl Fn(&Error) -> bool) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        match bounded(statement()).await {
            Err(e) if may_retry(&e) => {
                tracing::debug!(error = %e, "a statement is tried again");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            done => return done,
        }
    }
    bounded(statement()).await
}

async fn bounded<T>(statement: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, statement).await.unwrap_or(Err(Error::Timeout))
}

impl Error {
    fn is_lock_conflict(&self) -> bool {
        self.number().is_some_and(|number| LOCK_ERRORS.contains(&number))
    }

    /// The server's number of the error, if it is the server's.
    fn number(&self) -> Option<u16> {
        let Self::Sql(sqlx::Error::Database(error)) = self else { return None };
        error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
    }

    /// A connection that the server, or something between, has closed since it was last used is one of these.
    fn is_lost_connection(&self) -> bool {
        matches!(self, Self::Sql(sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed))
    }

    /// Whether the same statement may succeed later: the database cannot be reached, or is overloaded.
    pub fn is_transient(&self) -> bool {
        self.is_lock_conflict()
            || self.is_lost_connection()
            || self.number().is_some_and(|number| SERVER_ERRORS.contains(&number))
            || matches!(self, Self::Timeout | Self::Sql(sqlx::Error::PoolTimedOut))
    }
}

/// Now, as the tables keep it.
pub(crate) fn now() -> PrimitiveDateTime {
    let now = OffsetDateTime::now_utc();
    PrimitiveDateTime::new(now.date(), now.time())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;

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

    fn lost() -> Error {
        Error::Sql(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_is_tried_again_only_where_that_does_no_harm() {
        let tries = AtomicU32::new(0);
        let statement = || async { if tries.fetch_add(1, Relaxed) < 3 { Err(lost()) } else { Ok(()) } };
        idempotent(statement).await.unwrap();
        assert_eq!(tries.swap(0, Relaxed), 4);
        assert!(once(statement).await.is_err());
        assert_eq!(tries.swap(0, Relaxed), 1);
        let never = idempotent(|| async {
            tries.fetch_add(1, Relaxed);
            Err::<(), _>(lost())
        })
        .await;
        assert!(never.is_err_and(|e| e.is_transient()));
        assert_eq!(tries.load(Relaxed), TRIES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_does_not_answer_is_named() {
        let silent = idempotent(std::future::pending::<Result<()>>).await;
        let text = silent.unwrap_err().to_string();
        assert_eq!(text, "Zun's database did not answer within 30 s");
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
