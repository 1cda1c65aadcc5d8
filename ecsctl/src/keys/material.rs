//! The material of a key of external origin, on its way from a file to the token.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey,
};
use kmsd::domain::import::{MATERIAL_LEN, OaepHash};
use zeroize::Zeroizing;

use crate::{error::Error, keys::KeyError};

/// 256 bits. Wiped when dropped, never printed.
pub(crate) struct Material(Zeroizing<[u8; MATERIAL_LEN]>);

impl Material {
    /// Reads it from a file, or from standard input if that is `-`.
    ///
    /// # Errors
    /// Unless it is exactly 32 bytes.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io { doing: "read", path: path.to_owned(), source };
        // One more, to see that there is no more.
        let mut bytes = Zeroizing::new([0; MATERIAL_LEN + 1]);
        let len = if path == Path::new("-") {
            fill(&mut io::stdin().lock(), &mut *bytes)
        } else {
            File::open(path).and_then(|mut file| fill(&mut file, &mut *bytes))
        }
        .map_err(failed)?;
        if len != MATERIAL_LEN {
            return Err(Error::Material { path: path.to_owned(), is_longer: len > MATERIAL_LEN, len });
        }
        let mut material = Zeroizing::new([0; MATERIAL_LEN]);
        material.copy_from_slice(&bytes[..MATERIAL_LEN]);
        Ok(Self(material))
    }

    /// Wrapped by RSA-OAEP (RFC 8017, section 7.1) for who has the private half.
    ///
    /// # Errors
    /// If the public key, SubjectPublicKeyInfo in DER, is none.
    pub(crate) fn wrap(&self, public_key: &[u8], hash: OaepHash) -> Result<Vec<u8>, KeyError> {
        let not_a_key = || KeyError::Protocol { message: "kmsd gave a public key that is none".to_owned() };
        let key = PublicEncryptingKey::from_der(public_key).map_err(|_| not_a_key())?;
        let key = OaepPublicEncryptingKey::new(key).map_err(|_| not_a_key())?;
        let algorithm = match hash {
            OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
            OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
        };
        let mut out = vec![0; key.ciphertext_size()];
        let wrapped = key.encrypt(algorithm, &*self.0, &mut out, None).map_err(|_| not_a_key())?;
        Ok(wrapped.to_vec())
    }
}

fn fill(source: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < bytes.len() {
        match source.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::AsDer,
        rsa::{KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey},
    };

    use super::*;

    fn file(len: usize) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; len]).unwrap();
        file
    }

    #[test]
    fn k6_exactly_256_bits_are_taken() {
        for len in [0, 1, 16, 31, 33, 64, 4096] {
            let error = Material::read(file(len).path()).err().unwrap();
            assert!(
                matches!(error, Error::Material { is_longer, .. } if is_longer == (len > 32)),
                "{len}: {error}"
            );
        }
        assert!(Material::read(file(32).path()).is_ok());
        assert!(matches!(Material::read(Path::new("/nonexistent")), Err(Error::Io { .. })));
    }

    #[test]
    fn k6_what_is_wrapped_unwraps() {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let public = private.public_key().as_der().unwrap();
        let private = OaepPrivateDecryptingKey::new(private).unwrap();
        let material = Material::read(file(32).path()).unwrap();
        for (hash, algorithm) in
            [(OaepHash::Sha1, &OAEP_SHA1_MGF1SHA1), (OaepHash::Sha256, &OAEP_SHA256_MGF1SHA256)]
        {
            let wrapped = material.wrap(public.as_ref(), hash).unwrap();
            let mut out = vec![0; private.min_output_size()];
            assert_eq!(private.decrypt(algorithm, &wrapped, &mut out, None).unwrap(), [7; 32]);
        }
        assert!(matches!(material.wrap(b"no key", OaepHash::Sha1), Err(KeyError::Protocol { .. })));
    }
}
