use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::error::Result;
use crate::keystone::Keystone;
use crate::rest::{ClientOptions, NOTHING, Rest};

/// A version with the forms of providers, inventories, traits and allocations that are used here.
const MICROVERSION: &str = "placement 1.30";
/// How often an update is tried when somebody else changes the provider at the same time.
const CONFLICT_TRIES: usize = 4;

/// Placement, as the service's user.
#[derive(Debug, Clone)]
pub struct Placement(Rest);

/// A kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ResourceClass {
    /// Virtual CPUs.
    Vcpu,
    /// MiB of memory.
    MemoryMb,
    /// GiB of disk.
    DiskGb,
}

/// How much of a resource a provider has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// All of it.
    pub total: u64,
    /// What is kept for the host.
    pub reserved: u64,
    /// Least amount of one allocation.
    pub min_unit: u64,
    /// Largest amount of one allocation.
    pub max_unit: u64,
    /// Amounts are multiples of this.
    pub step_size: u64,
    /// How many times over it is given out.
    pub allocation_ratio: f32,
}

#[derive(Debug, Deserialize)]
struct Inventories {
    resource_provider_generation: u64,
    inventories: BTreeMap<Class, Inventory>,
}

/// The class of an inventory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
enum Class {
    /// One that this service sets.
    Ours(ResourceClass),
    /// One that somebody else has set.
    Other(String),
}

impl Inventories {
    /// The inventories of our classes.
    fn ours(&self) -> BTreeMap<ResourceClass, Inventory> {
        let ours = self.inventories.iter().filter_map(|(class, inventory)| match class {
            Class::Ours(class) => Some((*class, inventory.clone())),
            Class::Other(_) => None,
        });
        ours.collect()
    }

    /// All inventories, with `wanted` in place of those of our classes.
    fn with(&self, wanted: &BTreeMap<ResourceClass, Inventory>) -> BTreeMap<Class, Inventory> {
        let mut all = self.inventories.clone();
        all.retain(|class, _| matches!(class, Class::Other(_)));
        all.extend(wanted.iter().map(|(class, inventory)| (Class::Ours(*class), inventory.clone())));
        all
    }
}

/// What each consumer has of a provider.
#[derive(Deserialize)]
struct Allocations {
    allocations: BTreeMap<Uuid, Allocation>,
}

#[derive(Deserialize)]
struct Allocation {
    resources: BTreeMap<Class, u64>,
}

impl Allocations {
    fn consumers_of_ours(self) -> BTreeSet<Uuid> {
        let is_ours = |one: &Allocation| one.resources.keys().all(|class| matches!(class, Class::Ours(_)));
        self.allocations.into_iter().filter(|(_, one)| is_ours(one)).map(|(consumer, _)| consumer).collect()
    }
}

#[derive(Deserialize)]
struct Traits {
    resource_provider_generation: u64,
    traits: BTreeSet<String>,
}

impl Placement {
    /// A client on the session.
    pub fn new(keystone: Keystone, options: ClientOptions) -> Self {
        Self(Rest::new(keystone, "Placement", &["placement"], options, Some(MICROVERSION)))
    }

    /// The newest version of its API.
    pub async fn version(&self) -> Result<String> {
        #[derive(Deserialize)]
        struct Versions {
            versions: Vec<Version>,
        }
        #[derive(Deserialize)]
        struct Version {
            max_version: String,
        }
        let Versions { versions } = self.0.call(Method::GET, "/", NOTHING).await?;
        Ok(versions.into_iter().next().map_or_else(|| "unknown".into(), |version| version.max_version))
    }

    /// Makes the provider `uuid` named `name`, if there is none. One of another name gets this one: its host was renamed.
    pub async fn ensure_provider(&self, uuid: Uuid, name: &str) -> Result<()> {
        #[derive(Deserialize)]
        struct Provider {
            name: String,
        }
        let path = format!("/resource_providers/{uuid}");
        match self.0.call::<Provider>(Method::GET, &path, NOTHING).await {
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
            Ok(provider) if provider.name == name => return Ok(()),
            Ok(_) => {
                let renamed = json!({ "name": name });
                return self.0.call::<Value>(Method::PUT, &path, Some(&renamed)).await.map(|_| ());
            }
        }
        let provider = json!({ "uuid": uuid, "name": name });
        self.0.call::<Value>(Method::POST, "/resource_providers", Some(&provider)).await.map(|_| ())
    }

    /// A provider's inventories of our classes, with the allocation ratios that an operator may have set. Empty if there is no
    /// such provider.
    pub async fn inventories(&self, uuid: Uuid) -> Result<BTreeMap<ResourceClass, Inventory>> {
        match self.0.call::<Inventories>(Method::GET, &inventories_of(uuid), NOTHING).await {
            Err(e) if e.is_not_found() => Ok(BTreeMap::new()),
            found => found.map(|found| found.ours()),
        }
    }

    /// Sets a provider's inventories, if they differ. Those of other classes stay.
    pub async fn set_inventories(
        &self,
        uuid: Uuid,
        wanted: &BTreeMap<ResourceClass, Inventory>,
    ) -> Result<()> {
        for _ in 1..CONFLICT_TRIES {
            match self.try_inventories(uuid, wanted).await {
                Err(e) if e.is_conflict() => {}
                other => return other,
            }
        }
        self.try_inventories(uuid, wanted).await
    }

    async fn try_inventories(&self, uuid: Uuid, wanted: &BTreeMap<ResourceClass, Inventory>) -> Result<()> {
        let path = inventories_of(uuid);
        let found: Inventories = self.0.call(Method::GET, &path, NOTHING).await?;
        let wanted = found.with(wanted);
        if found.inventories == wanted {
            return Ok(());
        }
        let generation = found.resource_provider_generation;
        let body = json!({ "resource_provider_generation": generation, "inventories": wanted });
        self.0.call::<Value>(Method::PUT, &path, Some(&body)).await.map(|_| ())
    }

    /// Sets or clears the traits in `ours`; those of others stay.
    pub async fn set_traits(&self, uuid: Uuid, ours: &BTreeMap<&'static str, bool>) -> Result<()> {
        for name in ours.keys().copied().filter(|name| name.starts_with("CUSTOM_")) {
            self.0.call::<Value>(Method::PUT, &format!("/traits/{name}"), NOTHING).await?;
        }
        for _ in 1..CONFLICT_TRIES {
            match self.try_traits(uuid, ours).await {
                Err(e) if e.is_conflict() => {}
                other => return other,
            }
        }
        self.try_traits(uuid, ours).await
    }

    async fn try_traits(&self, uuid: Uuid, ours: &BTreeMap<&'static str, bool>) -> Result<()> {
        let path = format!("/resource_providers/{uuid}/traits");
        let found: Traits = self.0.call(Method::GET, &path, NOTHING).await?;
        let mut wanted = found.traits.clone();
        for (name, is_set) in ours {
            if *is_set {
                wanted.insert((*name).to_owned());
            } else {
                wanted.remove(*name);
            }
        }
        if wanted == found.traits {
            return Ok(());
        }
        let generation = found.resource_provider_generation;
        let body = json!({ "resource_provider_generation": generation, "traits": wanted });
        self.0.call::<Value>(Method::PUT, &path, Some(&body)).await.map(|_| ())
    }

    /// Who has allocations of a provider's resources of our classes, and of no other. Empty if there is no such provider.
    pub async fn consumers(&self, provider: Uuid) -> Result<BTreeSet<Uuid>> {
        let path = format!("/resource_providers/{provider}/allocations");
        match self.0.call::<Allocations>(Method::GET, &path, NOTHING).await {
            Err(e) if e.is_not_found() => Ok(BTreeSet::new()),
            found => found.map(|found| found.consumers_of_ours()),
        }
    }

    /// Removes a consumer's allocations. Idempotent: succeeds if there are none.
    pub async fn delete_allocations(&self, consumer: &str) -> Result<()> {
        match self.0.call::<Value>(Method::DELETE, &format!("/allocations/{consumer}"), NOTHING).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }
}

fn inventories_of(provider: Uuid) -> String {
    format!("/resource_providers/{provider}/inventories")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Asked, serve, session};

    async fn placement(answer: impl FnMut(Asked) -> (u16, String) + Send + 'static) -> Placement {
        let url = serve(answer);
        let options = ClientOptions { endpoint_override: url.clone(), ..ClientOptions::default() };
        Placement::new(session(&url).await, options)
    }

    fn wanted() -> BTreeMap<ResourceClass, Inventory> {
        let inventory = Inventory {
            total: 2,
            reserved: 0,
            min_unit: 1,
            max_unit: 2,
            step_size: 1,
            allocation_ratio: 1.0,
        };
        BTreeMap::from([(ResourceClass::Vcpu, inventory)])
    }

    /// What Placement answers whose provider somebody else changes so many times.
    fn changing(mut times: usize) -> impl FnMut(Asked) -> (u16, String) {
        move |asked| match asked.what.split_once(' ') {
            Some(("PUT", _)) if times > 0 => {
                times -= 1;
                (409, r#"{"errors":[{"detail":"generation conflict"}]}"#.into())
            }
            Some(("PUT", _)) => (200, "{}".into()),
            _ => (200, format!(r#"{{"resource_provider_generation":{times},"inventories":{{}}}}"#)),
        }
    }

    #[tokio::test]
    async fn a_conflict_is_resolved_unless_it_has_no_end() {
        let set =
            async |times| placement(changing(times)).await.set_inventories(Uuid::nil(), &wanted()).await;
        set(0).await.unwrap();
        set(CONFLICT_TRIES - 1).await.unwrap();
        let error = set(CONFLICT_TRIES).await.unwrap_err();
        assert!(error.is_conflict() && error.to_string().contains("generation conflict"), "{error}");
    }

    #[tokio::test]
    async fn a_token_that_has_expired_in_between_is_renewed_once() {
        let refused = |known: &'static str| {
            move |asked: Asked| match asked.token == known {
                true => (200, r#"{"resource_provider_generation":1,"inventories":{}}"#.into()),
                false => (401, r#"{"error":{"message":"token expired"}}"#.into()),
            }
        };
        assert!(placement(refused("token-1")).await.inventories(Uuid::nil()).await.unwrap().is_empty());
        let error = placement(refused("none")).await.inventories(Uuid::nil()).await.unwrap_err().to_string();
        assert!(error.contains("Placement") && error.contains("token expired"), "{error}");
    }

    #[test]
    fn consumers_of_other_classes_are_not_ours() {
        let (ours, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let found = json!({ "resource_provider_generation": 7, "allocations": {
            ours.to_string(): { "resources": { "VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1 } },
            other.to_string(): { "resources": { "VCPU": 1, "CUSTOM_X": 1 } },
        } });
        let found: Allocations = serde_json::from_value(found).unwrap();
        assert_eq!(found.consumers_of_ours(), BTreeSet::from([ours]));
    }

    #[test]
    fn inventories_of_other_classes_stay() {
        let inventory = |total: u64, ratio: f32| {
            json!({ "total": total, "reserved": 0, "min_unit": 1, "max_unit": total, "step_size": 1,
                "allocation_ratio": ratio })
        };
        let (cpus, memory, other) = (inventory(2, 16.0), inventory(8, 1.5), inventory(1, 1.0));
        let inventories = json!({ "CUSTOM_X": other, "MEMORY_MB": memory, "VCPU": cpus });
        let found = json!({ "resource_provider_generation": 7, "inventories": inventories });
        let found: Inventories = serde_json::from_value(found).unwrap();
        let mut ours = found.ours();
        assert_eq!(ours.keys().collect::<Vec<_>>(), [&ResourceClass::Vcpu, &ResourceClass::MemoryMb]);
        assert_eq!(ours[&ResourceClass::MemoryMb].allocation_ratio, 1.5);
        assert_eq!(found.with(&ours), found.inventories);
        ours.remove(&ResourceClass::MemoryMb);
        let expected = json!({ "CUSTOM_X": other, "VCPU": cpus });
        assert_eq!(serde_json::to_value(found.with(&ours)).unwrap(), expected);
    }

    #[test]
    fn resource_classes_have_placements_names() {
        let map = BTreeMap::from([
            (ResourceClass::Vcpu, 1),
            (ResourceClass::MemoryMb, 2),
            (ResourceClass::DiskGb, 3),
        ]);
        assert_eq!(serde_json::to_value(map).unwrap(), json!({ "VCPU": 1, "MEMORY_MB": 2, "DISK_GB": 3 }));
    }
}
