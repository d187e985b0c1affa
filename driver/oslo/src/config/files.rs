use std::path::{Path, PathBuf};

use config::{ConfigError, Map, Source, Value, ValueKind};

use super::ini::{self, Options};

/// The files of `--config-file` and `--config-dir`, in the order in which oslo.config reads them. As a source for
/// the `config` crate they give a table for each group, `DEFAULT` included, with each option a string, or an array
/// where it is repeated.
#[derive(Debug, Clone, Default)]
pub struct ConfigFiles {
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

impl ConfigFiles {
    /// Reads `files`, then `*.conf` of `directories` in the order of their names.
    pub fn new(files: Vec<PathBuf>, directories: Vec<PathBuf>) -> Self {
        Self { files, directories }
    }

    fn paths(&self) -> Result<Vec<PathBuf>, ConfigError> {
        let mut paths = self.files.clone();
        for directory in &self.directories {
            let entries = std::fs::read_dir(directory).map_err(|e| unreadable(directory, &e))?;
            let mut found = entries
                .map(|entry| entry.map(|entry| entry.path()).map_err(|e| unreadable(directory, &e)))
                .collect::<Result<Vec<_>, _>>()?;
            found.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
            found.sort();
            paths.extend(found);
        }
        Ok(paths)
    }

    fn options(&self) -> Result<Options, ConfigError> {
        let mut options = Options::new();
        for path in self.paths()? {
            let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, &e))?;
            ini::parse(&text, &mut options).map_err(|e| unreadable(&path, &e))?;
        }
        Ok(options)
    }
}

impl Source for ConfigFiles {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let options = self.options()?;
        let groups = options.iter().map(|(group, names)| {
            let values = names.iter().map(|(name, values)| {
                let values: Vec<_> =
                    values.iter().map(|value| text(ini::interpolate(value, group, &options))).collect();
                let value = match <[Value; 1]>::try_from(values) {
                    Ok([single]) => single,
                    Err(several) => Value::new(None, ValueKind::Array(several)),
                };
                (name.clone(), value)
            });
            (group.clone(), Value::new(None, ValueKind::Table(values.collect())))
        });
        Ok(groups.collect())
    }
}

fn text(value: String) -> Value {
    Value::new(None, ValueKind::String(value))
}

fn unreadable(path: &Path, cause: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::Message(format!("{}: {cause}", path.display()))
}

/// Where oslo.config looks for the files of `project` when none are named: the first of each that there is.
pub fn default_config_files(project: &str) -> ConfigFiles {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let mut places: Vec<PathBuf> = Vec::new();
    if let Some(home) = home {
        places.push(home.join(format!(".{project}")));
        places.push(home);
    }
    places.push(Path::new("/etc").join(project));
    places.push("/etc".into());
    let first = |name: String| places.iter().map(|place| place.join(&name)).find(|path| path.exists());
    ConfigFiles::new(
        first(format!("{project}.conf")).into_iter().collect(),
        first(format!("{project}.conf.d")).into_iter().collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Group {
        number: u32,
        flag: bool,
        text: String,
        #[serde(default = "fallback")]
        absent: String,
    }

    fn fallback() -> String {
        "fallback".into()
    }

    #[test]
    fn files_become_typed_groups() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.conf");
        std::fs::write(&file, "base = /x\n[group]\nnumber = 7\nflag = True\ntext = $base/y\n").unwrap();
        let parts = folder.path().join("a.conf.d");
        std::fs::create_dir(&parts).unwrap();
        std::fs::write(parts.join("10.conf"), "[group]\nnumber = 8\n").unwrap();
        std::fs::write(parts.join("20.txt"), "nonsense").unwrap();
        let files = ConfigFiles::new(vec![file], vec![parts]);
        let config = config::Config::builder().add_source(files).build().unwrap();
        let group: Group = config.get("group").unwrap();
        assert_eq!(group, Group { number: 8, flag: true, text: "/x/y".into(), absent: "fallback".into() });
    }

    #[test]
    fn an_error_names_the_file() {
        let files = ConfigFiles::new(vec!["/nonexistent.conf".into()], Vec::new());
        let error = config::Config::builder().add_source(files).build().unwrap_err().to_string();
        assert!(error.contains("/nonexistent.conf"), "{error}");
    }
}
