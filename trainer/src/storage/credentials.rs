//! Whether the options of a cloud hold credentials.
//!
//! Where they hold none, `object_store` asks the metadata service of the node for the node's own, and no option of it says
//! not to. What it takes before that is looked up in its own builders, which know the options by all of their names.

use object_store::{
    aws::{AmazonS3Builder, AmazonS3ConfigKey as S3},
    azure::{AzureConfigKey as Azure, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey as Google},
};

use super::{options::Options, uri::Scheme};

/// The keys that a Secret would need, where there are no credentials. A public bucket needs none.
pub(super) fn missing(options: &Options, scheme: Scheme) -> Option<&'static str> {
    let (are_known, keys) = match scheme {
        Scheme::S3 => (of_s3(options), "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        Scheme::Gs => (of_google(options), "GOOGLE_SERVICE_ACCOUNT_KEY"),
        Scheme::Az => (of_azure(options), "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"),
        Scheme::File => return None,
    };
    (!are_known).then_some(keys)
}

fn of_s3(options: &Options) -> bool {
    let builder = options.apply(AmazonS3Builder::new(), AmazonS3Builder::with_config);
    let has = |keys: &[S3]| keys.iter().all(|key| builder.get_config_value(key).is_some());
    is_on(builder.get_config_value(&S3::SkipSignature))
        || has(&[S3::AccessKeyId])
        || has(&[S3::WebIdentityTokenFile, S3::RoleArn])
        || has(&[S3::ContainerCredentialsRelativeUri])
        || has(&[S3::ContainerCredentialsFullUri, S3::ContainerAuthorizationTokenFile])
}

fn of_google(options: &Options) -> bool {
    let builder = options.apply(GoogleCloudStorageBuilder::new(), GoogleCloudStorageBuilder::with_config);
    let has = |key: Google| builder.get_config_value(&key).is_some();
    is_on(builder.get_config_value(&Google::SkipSignature))
        || has(Google::ServiceAccountKey)
        || has(Google::ServiceAccount)
        || has(Google::ApplicationCredentials)
        || options.has_identity()
}

fn of_azure(options: &Options) -> bool {
    let builder = options.apply(MicrosoftAzureBuilder::new(), MicrosoftAzureBuilder::with_config);
    let has = |keys: &[Azure]| keys.iter().all(|key| builder.get_config_value(key).is_some());
    let is_on = |key: Azure| is_on(builder.get_config_value(&key));
    let is_known = is_on(Azure::SkipSignature)
        || has(&[Azure::AccessKey])
        || has(&[Azure::SasKey])
        || has(&[Azure::Token])
        || has(&[Azure::ClientId, Azure::AuthorityId, Azure::FederatedTokenFile])
        || has(&[Azure::ClientId, Azure::AuthorityId, Azure::ClientSecret])
        || is_on(Azure::UseAzureCli);
    is_on(Azure::UseEmulator) || (has(&[Azure::AccountName]) && is_known)
}

/// Whether an option that is off by itself was turned on, in the words that `object_store` knows.
fn is_on(value: Option<String>) -> bool {
    let words = ["1", "true", "on", "yes", "y"];
    value.is_some_and(|value| words.iter().any(|word| value.eq_ignore_ascii_case(word)))
}

#[cfg(test)]
mod tests {
    use stoker_crds::training::storage::CLOUD_IDENTITY_ENV;

    use super::*;

    fn are_known(scheme: Scheme, variables: &[(&str, &str)]) -> bool {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        missing(&Options::new("STORAGE_", variables), scheme).is_none()
    }

    #[test]
    fn a_key_a_cloud_identity_and_a_public_bucket_are_enough() {
        let account = ("STORAGE_AZURE_STORAGE_ACCOUNT_NAME", "a");
        let workload = [("AZURE_CLIENT_ID", "c"), ("AZURE_TENANT_ID", "t"), ("AZURE_FEDERATED_TOKEN_FILE", "/f")];
        for (scheme, variables) in [
            (Scheme::S3, &[("STORAGE_AWS_ACCESS_KEY_ID", "k")][..]),
            (Scheme::S3, &[("STORAGE_AWS_SKIP_SIGNATURE", "true")]),
            (Scheme::S3, &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/f"), ("AWS_ROLE_ARN", "r")]),
            (
                Scheme::S3,
                &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "u"), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/f")],
            ),
            (Scheme::Gs, &[("STORAGE_GOOGLE_SERVICE_ACCOUNT_KEY", "{}")]),
            (Scheme::Gs, &[("STORAGE_GOOGLE_SKIP_SIGNATURE", "True")]),
            (Scheme::Gs, &[("GOOGLE_APPLICATION_CREDENTIALS", "/f")]),
            (Scheme::Gs, &[(CLOUD_IDENTITY_ENV, "true")]),
            (Scheme::Az, &[account, ("STORAGE_AZURE_STORAGE_ACCOUNT_KEY", "k")]),
            (Scheme::Az, &[account, ("STORAGE_AZURE_STORAGE_SAS_TOKEN", "s")]),
            (Scheme::Az, &[account, ("STORAGE_AZURE_SKIP_SIGNATURE", "1")]),
            (Scheme::Az, &[account, workload[0], workload[1], workload[2]]),
        ] {
            assert!(are_known(scheme, variables), "{scheme:?} {variables:?}");
        }
    }

    #[test]
    fn what_leaves_the_metadata_service_of_the_node_to_be_asked_is_not() {
        let account = ("STORAGE_AZURE_STORAGE_ACCOUNT_NAME", "a");
        for (scheme, variables) in [
            (Scheme::S3, &[("STORAGE_AWS_SKIP_SIGNATURE", "false")][..]),
            (Scheme::S3, &[]),
            (Scheme::S3, &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/f")]),
            (Scheme::S3, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "u")]),
            (Scheme::S3, &[(CLOUD_IDENTITY_ENV, "true")]),
            (Scheme::Gs, &[]),
            (Scheme::Gs, &[("STORAGE_GOOGLE_BASE_URL", "http://gcs")]),
            (Scheme::Gs, &[("STORAGE_STOKER_CLOUD_IDENTITY", "true")]),
            (Scheme::Az, &[]),
            (Scheme::Az, &[account]),
            (Scheme::Az, &[account, ("AZURE_FEDERATED_TOKEN_FILE", "/f")]),
            (Scheme::Az, &[account, ("AZURE_CLIENT_ID", "c"), ("AZURE_MSI_ENDPOINT", "http://m")]),
            (Scheme::Az, &[account, (CLOUD_IDENTITY_ENV, "true")]),
            (Scheme::Az, &[("STORAGE_AZURE_STORAGE_ACCOUNT_KEY", "k")]),
        ] {
            assert!(!are_known(scheme, variables), "{scheme:?} {variables:?}");
        }
    }
}
