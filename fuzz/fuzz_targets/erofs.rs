//! An EROFS image: its tree, attributes and content, extent by extent and at any offset.
#![no_main]

use layerinit::bytes::ReadAt;
use layerinit::format::erofs::{Data, Image, Inode, PCLUSTER_MAX_DSIZE};
use layerinit::error::Error;
use layerinit::tool::image::erofs_tree::walk;
use libfuzzer_sys::fuzz_target;

/// The maximum to read of all files together: clusters may be shared, and files may be sparse.
const OUTPUT_MAX: u64 = 32 << 20;

fuzz_target!(|data: &[u8]| {
    let Ok(image) = Image::open(&data) else {
        return;
    };
    let mut left = OUTPUT_MAX;
    let mut files = 0;
    let walked = walk(&image, |file, inode| {
        assert!(!file.path.contains(&0));
        files += 1;
        if files > 200 || left == 0 {
            return Err(Error::new("fuzz", "image", "enough"));
        }
        if let Ok(xattrs) = image.xattrs(inode) {
            assert!(xattrs.iter().all(|xattr| xattr.name.contains(&b'.')));
        }
        content(&image, inode, &mut left);
        Ok(())
    });
    if let Err(error) = walked {
        assert!(!error.to_string().is_empty());
    }
});

fn content(image: &Image, inode: &Inode, left: &mut u64) {
    let content = image.content(inode);
    let mut end = 0;
    let mut plain = Vec::new();
    for extent in image.extents(inode) {
        let Ok(extent) = extent else {
            return;
        };
        assert_eq!(extent.offset, end, "extents leave no gaps");
        assert!(extent.length > 0);
        end += extent.length;
        assert!(end <= inode.size, "{end} of {}", inode.size);
        let Some(rest) = left.checked_sub(1 + extent.length.min(1 << 16)) else {
            *left = 0;
            return;
        };
        *left = rest;
        // Reading at the offset returns the same bytes, or fails, too.
        let mut some = vec![0; extent.length.min(1 << 16) as usize];
        let at = content.read_at(&mut some, extent.offset);
        let expected = match &extent.data {
            Data::Hole => Some(vec![0; some.len()]),
            Data::Raw(offset) => {
                let mut bytes = vec![0; some.len()];
                data_at(image, &mut bytes, *offset).then_some(bytes)
            }
            Data::Bytes(bytes) => Some(bytes.clone()),
            Data::Cluster(cluster, skip) => {
                assert!(cluster.length <= PCLUSTER_MAX_DSIZE);
                *left = left.saturating_sub(cluster.length.into());
                let done = cluster.decode(image.bytes(), &mut plain);
                done.is_ok().then(|| {
                    assert_eq!(plain.len(), cluster.length as usize);
                    plain[*skip as usize..].to_vec()
                })
            }
        };
        match (at, expected) {
            (Ok(n), Some(expected)) => assert_eq!(some[..n], expected[..n]),
            (Err(_), None) => {}
            (Ok(_), None) | (Err(_), Some(_)) => panic!("reading the extent or reading at its offset fails, but not both"),
        }
    }
    assert!(end == inode.size || end == 0, "{end} of {}", inode.size);
}

fn data_at(image: &Image, bytes: &mut [u8], offset: u64) -> bool {
    image.bytes().read_exact_at(bytes, offset).is_ok()
}
