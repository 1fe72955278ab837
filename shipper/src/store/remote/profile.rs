//! The files of Amazon's tools, `~/.aws/credentials` and `~/.aws/config`, which the library does not read: the keys, the
//! region and the endpoint of a profile. Of their form only what these need: sections, `key = value`, comments. Profiles
//! that get their keys by asking somebody (`role_arn`, `sso_session`, `credential_process`) are told to be of no use here.
//!
//! The keys are read again for each request, so that files which are written anew under a running shipper count from then on: a
//! key that is replaced there before the old one is refused is never missed.
//!
//! Own code and no crate: the one that is kept well belongs to a kit of a hundred crates with its own HTTP.

use super::connect::Environment;
use crate::{Error, Kind, Result};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

/// What a profile says.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Profile {
    /// `aws_access_key_id` and `aws_secret_access_key`.
    pub(super) keys: Option<(String, String)>,
    /// `aws_session_token`.
    pub(super) token: Option<String>,
    /// `region`.
    pub(super) region: Option<String>,
    /// `endpoint_url`.
    pub(super) endpoint: Option<String>,
}

/// A profile's keys, as its files have them now.
pub(super) struct Keys {
    env: Environment,
    /// The last ones, for while somebody is writing the files.
    last: Mutex<Arc<AwsCredential>>,
}

impl Keys {
    /// Of a profile that has keys.
    pub(super) fn new(env: &Environment, profile: &Profile) -> Arc<Self> {
        let none = || AwsCredential { key_id: String::new(), secret_key: String::new(), token: None };
        let last = Mutex::new(Arc::new(profile.credential().unwrap_or_else(none)));
        Arc::new(Self { env: env.clone(), last })
    }

    fn now(&self) -> Arc<AwsCredential> {
        let mut last = self.last.lock().expect("no thread panics with the lock");
        match load(&self.env, false).ok().and_then(|profile| profile.credential()) {
            Some(found) if found != **last => {
                tracing::info!("the keys of the profile have changed");
                *last = Arc::new(found);
            }
            _ => {}
        }
        last.clone()
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl CredentialProvider for Keys {
    type Credential = AwsCredential;

    // What the macro `async_trait` makes of an asynchronous function.
    fn get_credential<'a, 'b>(
        &'a self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async { Ok(self.now()) })
    }
}

impl Profile {
    fn credential(&self) -> Option<AwsCredential> {
        let (key_id, secret_key) = self.keys.clone()?;
        Some(AwsCredential { key_id, secret_key, token: self.token.clone() })
    }
}

/// The profile that the environment names, or `default`; empty if there are no such files. `with_keys`: keys are needed.
///
/// # Errors
/// `Usage` if the profile that was asked for by name is not there, or has its keys from elsewhere. `Denied` if a file can't
/// be read.
pub(super) fn load(env: &Environment, with_keys: bool) -> Result<Profile> {
    let home = env.get("HOME").map(PathBuf::from).unwrap_or_default();
    let file = |variable: &str, name: &str| -> Result<String> {
        let path = env.get(variable).map_or_else(|| home.join(".aws").join(name), PathBuf::from);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(|error| {
                Error::caused(Kind::Denied, format!("{} can't be read", path.display()), error)
            }),
        }
    };
    let config = file("AWS_CONFIG_FILE", "config")?;
    let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials")?;
    let asked = env.get("AWS_PROFILE");
    let name = asked.as_deref().unwrap_or("default");
    let section = match name {
        "default" => name.to_owned(),
        name => format!("profile {name}"),
    };
    let (config, credentials) = (section_of(&config, &section), section_of(&credentials, name));
    if asked.is_some() && config.is_none() && credentials.is_none() {
        return Err(Error::new(Kind::Usage, format!("there is no profile {name} (AWS_PROFILE) in ~/.aws")));
    }
    let (config, credentials) = (config.unwrap_or_default(), credentials.unwrap_or_default());
    let get = |key: &str| credentials.get(key).or_else(|| config.get(key)).cloned();
    let keys = get("aws_access_key_id").zip(get("aws_secret_access_key"));
    let elsewhere =
        ["role_arn", "sso_session", "sso_start_url", "credential_process", "web_identity_token_file"];
    if let (true, None, Some(how)) = (with_keys, &keys, elsewhere.iter().find(|key| get(key).is_some())) {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "the profile {name} gets its keys by {how}, which is not supported here; `aws configure export-credentials \
                --format env` gives them to the environment"
            ),
        ));
    }
    Ok(Profile {
        keys,
        token: get("aws_session_token"),
        region: get("region"),
        endpoint: get("endpoint_url"),
    })
}

/// The keys and values of a section, if it is there. Nested settings, which are indented, are left out.
fn section_of(text: &str, name: &str) -> Option<HashMap<String, String>> {
    let mut found: Option<HashMap<String, String>> = None;
    let mut inside = false;
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = bare.strip_prefix('[') {
            let section = section.split(']').next().unwrap_or_default();
            inside = section.split_whitespace().eq(name.split_whitespace());
            if inside {
                found.get_or_insert_default();
            }
        } else if let (true, false, Some((key, value))) =
            (inside, line.starts_with([' ', '\t']), bare.split_once('='))
        {
            // A comment behind a value begins with a space.
            let value = value.split(" #").next().unwrap_or_default().trim();
            found.get_or_insert_default().insert(key.trim().to_lowercase(), value.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(config: &str, credentials: &str, profile: Option<&str>) -> Result<Profile> {
        let folder = tempfile::tempdir().unwrap();
        let aws = folder.path().join(".aws");
        std::fs::create_dir(&aws).unwrap();
        std::fs::write(aws.join("config"), config).unwrap();
        std::fs::write(aws.join("credentials"), credentials).unwrap();
        let home = folder.path().to_str().unwrap();
        let env = [("HOME", home), ("AWS_PROFILE", profile.unwrap_or_default())];
        load(&env.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect(), true)
    }

    const CONFIG: &str = "# mine\n[default]\nregion = eu-central-1 # near\n[profile  far]\nregion=us-west-2\n\
                          endpoint_url = https://s3.example.com:9000/?a=b\ns3 =\n  region = nested\n[profile role]\n\
                          role_arn = arn:aws:iam::1:role/x\n";
    const CREDENTIALS: &str = "[default]\naws_access_key_id = A\naws_secret_access_key=a/b+c=\n\n[far]\n\
                               aws_access_key_id=B\naws_secret_access_key=b\naws_session_token=t\n";

    #[test]
    fn a_profile_has_its_keys_of_one_file_and_the_rest_of_the_other() {
        let default = with(CONFIG, CREDENTIALS, None).unwrap();
        assert_eq!(default.keys, Some(("A".into(), "a/b+c=".into())));
        assert_eq!((default.region.as_deref(), default.token), (Some("eu-central-1"), None));
        let far = with(CONFIG, CREDENTIALS, Some("far")).unwrap();
        assert_eq!(far.keys, Some(("B".into(), "b".into())));
        assert_eq!((far.region.as_deref(), far.token.as_deref()), (Some("us-west-2"), Some("t")));
        assert_eq!(far.endpoint.as_deref(), Some("https://s3.example.com:9000/?a=b"));
        assert!(with("", "", None).unwrap() == Profile::default());
    }

    #[test]
    fn a_profile_that_is_not_there_or_asks_elsewhere_is_refused_by_name() {
        for (profile, word) in [("none", "none"), ("role", "role_arn")] {
            let error = with(CONFIG, CREDENTIALS, Some(profile)).err().expect(profile);
            assert!(error.kind() == Kind::Usage && error.line().contains(word), "{}", error.line());
        }
    }
}
