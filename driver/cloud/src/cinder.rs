use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::error::Result;
use crate::http::READ_TIMEOUT;
use crate::keystone::Keystone;
use crate::rest::{ClientOptions, NOTHING, Rest};

/// A version in which an attachment is completed by who made it.
const MICROVERSION: &str = "volume 3.44";

/// Cinder, as the service's user. Whether a user may have a volume is asked by Zun's API, in the user's name.
#[derive(Debug, Clone)]
pub struct Cinder(Rest);

/// A volume as Cinder describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CinderVolume {
    /// `available`, `in-use`, `error` and others.
    pub status: String,
}

/// A volume's place in a container, and where a host finds it.
#[derive(Clone, PartialEq, Eq)]
pub struct VolumeAttachment {
    /// Its identifier.
    pub id: Uuid,
    /// The protocol and its data. There may be a password in it: it is not for logs.
    pub connection_info: Value,
}

#[derive(Deserialize)]
struct VolumeAnswer {
    volume: CinderVolume,
}

#[derive(Deserialize)]
struct AttachmentAnswer {
    attachment: Attachment,
}

#[derive(Deserialize)]
struct Attachment {
    id: Uuid,
    #[serde(default)]
    connection_info: Map<String, Value>,
}

#[derive(Deserialize)]
struct AttachmentList {
    attachments: Vec<ListedAttachment>,
}

#[derive(Deserialize)]
struct ListedAttachment {
    id: Uuid,
    instance: Option<String>,
}

impl Cinder {
    /// A client on the session.
    pub fn new(keystone: Keystone, options: ClientOptions) -> Self {
        let types = &["block-storage", "volumev3", "block-store"];
        Self(Rest::new(keystone, "Cinder", types, options, Some(MICROVERSION)).into_service())
    }

    /// The volume, or `None` if it is absent.
    pub async fn get(&self, volume: Uuid) -> Result<Option<CinderVolume>> {
        match self.0.call::<VolumeAnswer>(Method::GET, &format!("/volumes/{volume}"), NOTHING).await {
            Err(e) if e.is_not_found() => Ok(None),
            answer => answer.map(|answer| Some(answer.volume)),
        }
    }

    /// Attaches a volume to a container on a host that has these connector properties. Cinder answers when its storage has
    /// exported the volume.
    pub async fn attach(&self, volume: Uuid, container: Uuid, connector: &Value) -> Result<VolumeAttachment> {
        let attachment = json!({ "volume_uuid": volume, "instance_uuid": container, "connector": connector });
        let body = json!({ "attachment": attachment });
        let answer: AttachmentAnswer =
            self.0.call_within(READ_TIMEOUT, Method::POST, "/attachments", Some(&body)).await?;
        let Attachment { id, connection_info } = answer.attachment;
        Ok(VolumeAttachment { id, connection_info: nested(connection_info) })
    }

    /// Completes an attachment: the volume is in use.
    pub async fn complete(&self, attachment: Uuid) -> Result<()> {
        let path = format!("/attachments/{attachment}/action");
        self.0.call::<Value>(Method::POST, &path, Some(&json!({ "os-complete": null }))).await.map(drop)
    }

    /// Identifiers of a volume's attachments to a container.
    pub async fn attachments(&self, volume: Uuid, container: Uuid) -> Result<Vec<Uuid>> {
        let path = format!("/attachments?all_tenants=1&volume_id={volume}");
        let list: AttachmentList = self.0.call(Method::GET, &path, NOTHING).await?;
        let own = list
            .attachments
            .into_iter()
            .filter(|one| one.instance.as_deref().is_some_and(|instance| instance == container.to_string()));
        Ok(own.map(|one| one.id).collect())
    }

    /// Detaches a volume. Idempotent: succeeds if the attachment is absent.
    pub async fn detach(&self, attachment: Uuid) -> Result<()> {
        gone(self.0.call::<Value>(Method::DELETE, &format!("/attachments/{attachment}"), NOTHING).await)
    }

    /// Deletes a volume, which Cinder does after its answer. Idempotent: succeeds if it is absent.
    pub async fn delete(&self, volume: Uuid) -> Result<()> {
        gone(self.0.call::<Value>(Method::DELETE, &format!("/volumes/{volume}"), NOTHING).await)
    }
}

fn gone(deleted: Result<Value>) -> Result<()> {
    match deleted {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}

/// An attachment has the protocol among its data; os-brick, and Zun's database, have it beside them.
fn nested(mut info: Map<String, Value>) -> Value {
    let protocol = info.remove("driver_volume_type").unwrap_or_default();
    json!({ "driver_volume_type": protocol, "data": info })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_stands_beside_its_data() {
        let text = r#"{"attachment": {"id": "b9ad5e49-6e9e-4b7b-a73d-9b2d2c7fbd7c", "status": "attaching",
            "instance": "2d2c7fbd-6e9e-4b7b-a73d-9b2d2c7fbd7c", "volume_id": "a73d9b2d-6e9e-4b7b-a73d-9b2d2c7fbd7c",
            "connection_info": {"driver_volume_type": "iscsi", "target_lun": 1, "attachment_id": "b9ad5e49"}}}"#;
        let answer: AttachmentAnswer = serde_json::from_str(text).unwrap();
        let info = nested(answer.attachment.connection_info);
        let expected = json!({ "driver_volume_type": "iscsi", "data": { "target_lun": 1, "attachment_id": "b9ad5e49" } });
        assert_eq!(info, expected);
    }
}
