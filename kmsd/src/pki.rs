//! A private certificate authority, so that a network client needs one file to trust this service and no other.
//!
//! The authority has a fixed name and a key of its own; its certificate can be told from another's by the key identifier. Server
//! and client certificates are signed by it, each with a fresh ECDSA P-256 key. Which files hold them is [`files`]' business.

mod files;

use std::net::IpAddr;

use jiff::{Timestamp, ToSpan, Zoned, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

pub use files::{PkiError, TlsFiles};

/// Validity of the authority, in days.
const AUTHORITY_DAYS: i32 = 3650;
/// Validity of what it signs, in days.
const CERTIFICATE_DAYS: i32 = 825;

/// The authority's signing key.
struct Authority {
    key: KeyPair,
    now: Timestamp,
}

/// A certificate and its key, as PEM.
struct Issued {
    certificate: String,
    key: Zeroizing<String>,
    /// SHA-256 of the subject's public key info.
    key_digest: [u8; 32],
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Authority {
    fn generate(now: Timestamp) -> Result<Self, rcgen::Error> {
        Ok(Self { key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?, now })
    }

    fn from_pem(key: &str, now: Timestamp) -> Result<Self, rcgen::Error> {
        Ok(Self { key: KeyPair::from_pem(key)?, now })
    }

    fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }

    /// Name and constraints: the same whenever the authority is loaded, so that what it signs always names it.
    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = named("kmsd private CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid(&mut params, self.now, AUTHORITY_DAYS);
        params
    }

    fn certificate(&self) -> Result<String, rcgen::Error> {
        Ok(self.params().self_signed(&self.key)?.pem())
    }

    /// For a server at `address`, and at `localhost` if that is this machine.
    fn server(&self, address: IpAddr) -> Result<Issued, rcgen::Error> {
        let mut params = self.signed_params("kmsd");
        let mut addresses = vec![address];
        let mut names = Vec::new();
        if address.is_loopback() || address.is_unspecified() {
            addresses.extend([IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
            names.push(SanType::DnsName("localhost".try_into()?));
        }
        addresses.retain(|address| !address.is_unspecified());
        addresses.sort_unstable();
        addresses.dedup();
        params.subject_alt_names = addresses.into_iter().map(SanType::IpAddress).chain(names).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(&params)
    }

    /// For a client that is called `name`.
    fn client(&self, name: &str) -> Result<Issued, rcgen::Error> {
        let mut params = self.signed_params(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params)
    }

    fn signed_params(&self, name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, self.now, CERTIFICATE_DAYS);
        params
    }

    fn issue(&self, params: &CertificateParams) -> Result<Issued, rcgen::Error> {
        let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let authority = self.params();
        let certificate = params.signed_by(&key, &Issuer::from_params(&authority, &self.key))?;
        let issued = Issued {
            certificate: certificate.pem(),
            key: Zeroizing::new(key.serialize_pem()),
            key_digest: Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&key)).into(),
        };
        key.zeroize();
        Ok(issued)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CommonName, name);
    dn
}

/// From the day before `now`, for clients whose clocks are behind.
fn valid(params: &mut CertificateParams, now: Timestamp, days: i32) {
    let today = Zoned::new(now, TimeZone::UTC).date();
    let midnight = |date: Date| {
        date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = midnight(today.saturating_sub(1.day()));
    params.not_after = midnight(today.saturating_add(days.days()));
}

#[cfg(test)]
mod tests;
