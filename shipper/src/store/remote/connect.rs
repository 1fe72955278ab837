//! The library's client for a bucket: credentials from where the provider's own tools have them, the rest from options.
//!
//! | | in this order |
//! |---|---|
//! | S3 | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`; web identity (`AWS_WEB_IDENTITY_TOKEN_FILE`, `AWS_ROLE_ARN`); the files of [`profile`](super::profile); the container's and the machine's role |
//! | Azure | `AZURE_STORAGE_CONNECTION_STRING`; `AZURE_STORAGE_ACCOUNT_KEY` or `_KEY`, `AZURE_STORAGE_SAS_TOKEN`; `AZURE_CLIENT_ID`, `AZURE_CLIENT_SECRET`, `AZURE_TENANT_ID`; `AZURE_FEDERATED_TOKEN_FILE`; the machine's identity |
//! | Google | `SERVICE_ACCOUNT`, `GOOGLE_APPLICATION_CREDENTIALS`, gcloud's own file; the machine's account |
//!
//! What is given for a time is asked for again by the library before it is over: web identities and roles of S3, identities
//! of Azure, accounts of Google. Files of a profile are read again when they change ([`profile`](super::profile)). A process's
//! environment can't change.

use super::profile;
use super::s3::S3;
use super::wire::Connector;
use crate::store::location::{Addressing, Bucket, Options, Service, without_secrets};
use crate::{Error, Kind, Result};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::HttpConnector;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::list::PaginatedListStore;
use object_store::{Certificate, ClientOptions, HeaderValue, ObjectStore, RetryConfig};
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// What we ask of the library.
pub(super) trait Client: ObjectStore + PaginatedListStore {}

impl<T: ObjectStore + PaginatedListStore> Client for T {}

/// A client and the host that it asks; whoever else it asks is asked for credentials.
pub(super) struct Connected {
    pub(super) client: Arc<dyn Client>,
    pub(super) host: String,
    /// The library leaves out of a listing the object whose name is all of the prefix (Azure).
    pub(super) hides_prefix: bool,
    /// What the library's client can't say.
    pub(super) s3: Option<S3>,
}

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Never behind a proxy: who gives a machine its credentials.
const METADATA: &str = "169.254.169.254,169.254.170.2,metadata.google.internal,metadata";

/// Makes the client; nothing is asked yet.
///
/// # Errors
/// `Usage` and `Denied`, with what is missing.
pub(super) fn connect(bucket: &Bucket, options: &Options, env: &Environment) -> Result<Connected> {
    match &bucket.service {
        Service::S3 => s3(&bucket.name, options, env),
        Service::Azure(account) => azure(&bucket.name, account.as_deref(), options, env),
        Service::Google => google(&bucket.name, options, env),
    }
}

/// Variables of an environment.
#[derive(Clone)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// This process's.
    pub fn here() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    /// Those whose names the library knows as keys of its settings, as its own reading of the process's environment takes
    /// them.
    fn settings<K: FromStr>(&self, prefix: &str) -> impl Iterator<Item = (K, &String)> {
        let known = self.0.iter().filter(move |(name, _)| name.starts_with(prefix));
        known.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value)))
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(variables: T) -> Self {
        // An empty variable is none, as for the providers' tools.
        Self(variables.into_iter().filter(|(_, value)| !value.is_empty()).collect())
    }
}

fn s3(bucket: &str, options: &Options, env: &Environment) -> Result<Connected> {
    let mut builder = AmazonS3Builder::new();
    for (key, value) in env.settings("AWS_") {
        builder = builder.with_config(key, value);
    }
    let set = |builder: &AmazonS3Builder, key| builder.get_config_value(&key);
    let keys = set(&builder, AmazonS3ConfigKey::AccessKeyId).is_some()
        || (env.get("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() && env.get("AWS_ROLE_ARN").is_some());
    let profile = profile::load(env, !keys)?;
    if !keys && profile.keys.is_some() {
        builder = builder.with_credentials(profile::Keys::new(env, &profile));
    }
    let region =
        options.region.clone().or_else(|| set(&builder, AmazonS3ConfigKey::Region)).or(profile.region);
    let region = region.unwrap_or_else(|| "us-east-1".to_owned());
    let endpoint = options.endpoint.clone();
    let endpoint = endpoint.or_else(|| set(&builder, AmazonS3ConfigKey::S3Endpoint));
    let endpoint = endpoint.or_else(|| set(&builder, AmazonS3ConfigKey::Endpoint)).or(profile.endpoint);
    // Amazon wants names in front; a name with dots there fits no certificate. Others know paths, all of them.
    let addressing = options.addressing.unwrap_or(match endpoint.is_none() && !bucket.contains('.') {
        true => Addressing::Virtual,
        false => Addressing::Path,
    });
    let host = endpoint.as_deref().map_or_else(|| format!("s3.{region}.amazonaws.com"), host_of);
    let client = client(options, endpoint.as_deref())?;
    let http = Connector.connect(&client).map_err(unusable)?;
    let given = endpoint.is_some();
    let endpoint = endpoint.unwrap_or_else(|| format!("https://{host}"));
    let endpoint = match addressing {
        Addressing::Path => endpoint,
        Addressing::Virtual => endpoint.replacen("://", &format!("://{bucket}."), 1),
    };
    let endpoint = endpoint.trim_end_matches('/');
    if given {
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    let bucket_url = match addressing {
        Addressing::Path => format!("{endpoint}/{bucket}"),
        Addressing::Virtual => endpoint.to_owned(),
    };
    let built = builder
        .with_bucket_name(bucket)
        .with_region(&region)
        .with_virtual_hosted_style_request(addressing == Addressing::Virtual)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // The same sum is in the signature, so that a server which knows no checksums checks it all the same.
        .with_checksum_algorithm(Checksum::SHA256)
        .with_unsigned_payload(false)
        .with_disable_bulk_delete(true)
        .with_retry(once())
        .with_client_options(client)
        .with_http_connector(Connector)
        .build()
        .map_err(unusable)?;
    let s3 = S3 { client: http, credentials: built.credentials().clone(), region, bucket: bucket_url };
    Ok(Connected { client: Arc::new(built), host, hides_prefix: false, s3: Some(s3) })
}

fn azure(
    container: &str,
    account_url: Option<&str>,
    options: &Options,
    env: &Environment,
) -> Result<Connected> {
    let mut builder = MicrosoftAzureBuilder::new();
    for (key, value) in env.settings("AZURE_") {
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = env.get("IDENTITY_ENDPOINT") {
        builder = builder.with_msi_endpoint(endpoint);
    }
    let connection = env.get("AZURE_STORAGE_CONNECTION_STRING").unwrap_or_default();
    let part = |name: &str| {
        let mut parts = connection.split(';').filter_map(|part| part.split_once('='));
        parts.find(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let of_url = account_url.map(|url| host_of(url).split('.').next().unwrap_or_default().to_owned());
    let account = of_url
        .or_else(|| part("AccountName"))
        .or_else(|| builder.get_config_value(&AzureConfigKey::AccountName))
        .or_else(|| env.get("AZURE_STORAGE_ACCOUNT"));
    let Some(account) = account else {
        return Err(Error::new(
            Kind::Usage,
            "az:// needs the account: set AZURE_STORAGE_ACCOUNT_NAME, or give \
            https://ACCOUNT.blob.core.windows.net/container/prefix",
        ));
    };
    if let Some(key) = part("AccountKey").or_else(|| env.get("AZURE_STORAGE_KEY")) {
        builder = builder.with_access_key(key);
    }
    if let Some(signature) = part("SharedAccessSignature") {
        builder = builder.with_config(AzureConfigKey::SasKey, signature);
    }
    let endpoint = options.endpoint.clone().or_else(|| account_url.map(str::to_owned));
    let endpoint = endpoint.or_else(|| part("BlobEndpoint")).or_else(|| {
        let protocol = part("DefaultEndpointsProtocol").unwrap_or_else(|| "https".to_owned());
        Some(format!("{protocol}://{account}.blob.{}", part("EndpointSuffix")?))
    });
    let endpoint = endpoint.or_else(|| builder.get_config_value(&AzureConfigKey::Endpoint));
    let endpoint = endpoint.unwrap_or_else(|| format!("https://{account}.blob.core.windows.net"));
    let built = builder
        .with_account(account)
        .with_container_name(container)
        .with_endpoint(endpoint.trim_end_matches('/').to_owned())
        .with_use_emulator(false)
        .with_retry(once())
        .with_client_options(client(options, Some(&endpoint))?)
        .with_http_connector(Connector)
        .build();
    let client = Arc::new(built.map_err(unusable)?);
    Ok(Connected { client, host: host_of(&endpoint), hides_prefix: true, s3: None })
}

fn google(bucket: &str, options: &Options, env: &Environment) -> Result<Connected> {
    let mut builder = GoogleCloudStorageBuilder::new();
    for (key, value) in env.settings("GOOGLE_") {
        builder = builder.with_config(key, value);
    }
    if let Some(path) = env.get("SERVICE_ACCOUNT") {
        builder = builder.with_service_account_path(path);
    }
    let endpoint = options.endpoint.clone().or_else(|| builder.get_config_value(&GoogleConfigKey::BaseUrl));
    let host = endpoint.as_deref().map_or_else(|| "storage.googleapis.com".to_owned(), host_of);
    if let Some(endpoint) = &endpoint {
        builder = builder.with_config(GoogleConfigKey::BaseUrl, endpoint.trim_end_matches('/'));
    }
    let built = builder
        .with_bucket_name(bucket)
        .with_retry(once())
        .with_client_options(client(options, endpoint.as_deref())?)
        .with_http_connector(Connector)
        .build();
    Ok(Connected { client: Arc::new(built.map_err(unusable)?), host, hides_prefix: false, s3: None })
}

/// The library tries once: tries are ours (see [`super`]).
fn once() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn client(options: &Options, endpoint: Option<&str>) -> Result<ClientOptions> {
    let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let mut client = ClientOptions::new()
        .with_user_agent(HeaderValue::from_static(concat!("towline/", env!("CARGO_PKG_VERSION"))))
        .with_allow_http(plain)
        .with_connect_timeout(CONNECT)
        // By the size of what is asked for, in `super`.
        .with_timeout_disabled();
    if let Some(proxy) = &options.proxy {
        client = client.with_proxy_url(proxy).with_proxy_excludes(METADATA);
    }
    if let Some(path) = &options.ca {
        let bad = |what: String| Error::new(Kind::Usage, format!("--store-ca {}: {what}", path.display()));
        let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| bad(error.to_string()))?;
        if certificates.is_empty() {
            return Err(bad("it has no certificate (PEM)".to_owned()));
        }
        for certificate in certificates {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

/// `host:port` of `https://user:password@host:port/path`.
pub(super) fn host_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    host.rsplit('@').next().unwrap_or_default().to_owned()
}

fn unusable(error: object_store::Error) -> Error {
    Error::new(Kind::Usage, format!("the store can't be used: {}", without_secrets(&error.to_string())))
}
