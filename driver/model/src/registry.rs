//! Registries that users told Zun about (`zun/objects/registry.py`); their passwords are encrypted in the table
//! (`zun/common/crypt.py`).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use fernet::Fernet;
use serde::Deserialize;
use sqlx::FromRow;

use crate::database::{Database, Error, Result, idempotent};

const KEY_LENGTH: usize = 32;

/// A registry and the account to use with it.
#[derive(Clone, PartialEq, Eq, Deserialize, FromRow)]
pub struct Registry {
    /// Host and port.
    pub domain: String,
    /// The account, if it needs one.
    pub username: Option<String>,
    /// The account's password.
    pub password: Option<String>,
}

impl Registry {
    /// Reads a registry's row. `key` is `[DEFAULT] auth_encryption_key`, of which 32 bytes count.
    pub async fn get(database: &Database, id: i32, key: &str) -> Result<Self> {
        let row: Option<Self> = idempotent(|| async {
            let row = sqlx::query_as("SELECT domain, username, password FROM registry WHERE id = ?");
            Ok(row.bind(id).fetch_optional(database).await?)
        })
        .await?;
        let registry = row.ok_or(Error::NoRegistry(id))?;
        let password =
            registry.password.map(|text| decrypt(&text, key).ok_or(Error::Decrypt(id))).transpose()?;
        Ok(Self { password, ..registry })
    }
}

fn decrypt(text: &str, key: &str) -> Option<String> {
    let fernet = Fernet::new(&URL_SAFE.encode(key.as_bytes().get(..KEY_LENGTH)?))?;
    String::from_utf8(fernet.decrypt(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by `zun.common.crypt.encrypt('guessed')` with the default key.
    const CAPTURED: &str = "gAAAAABrBWgqMnGO0mdVUOzv3c_xyJYhahGoLof6s9ZVJsxMtgMdKOBdn5Gmu5p6B6GVvm26ceTXLFNO4JFzGpFD5jrpnFxNOA==";
    const DEFAULT_KEY: &str = "notgood but just long enough i t";

    #[test]
    fn a_password_that_zun_encrypted_is_read() {
        assert_eq!(decrypt(CAPTURED, DEFAULT_KEY).as_deref(), Some("guessed"));
        assert_eq!(decrypt(CAPTURED, "another key of thirty-two bytes."), None);
        assert_eq!(decrypt(CAPTURED, "short"), None);
        assert_eq!(decrypt("nonsense", DEFAULT_KEY), None);
    }
}
