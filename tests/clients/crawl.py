"""Run inside a guest's namespace: cloud-init's own OpenStack datasource, its findings as JSON.

    python crawl.py FOLDER_OF_CLOUDINIT SCRATCH_FOLDER

One thing is mocked: the DMI product name by which cloud-init sees that it is on OpenStack.
"""

import base64
import json
import logging
import sys


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    from cloudinit import distros, helpers
    from cloudinit.sources import DataSourceOpenStack as openstack

    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    openstack.detect_openstack = lambda **_: True
    paths = helpers.Paths({"cloud_dir": sys.argv[2], "run_dir": sys.argv[2]})
    distribution = distros.fetch("debian")("debian", {}, paths)
    source = openstack.DataSourceOpenStack({"datasource_list": ["OpenStack"]}, distribution, paths)
    crawled = {}
    crawl = source._crawl_metadata
    source._crawl_metadata = lambda: crawled.update(crawl()) or crawled
    found = source._get_data()
    print(
        json.dumps(
            {
                "found": found,
                "version": source.version,
                "metadata": source.metadata,
                "userdata": source.userdata_raw,
                "vendordata": crawled.get("vendordata"),
                "vendordata2": crawled.get("vendordata2"),
                "network": source.network_json,
                "ec2": source.ec2_metadata,
                "files": source.files,
            },
            default=lambda value: {"base64": base64.b64encode(value).decode()},
        )
    )


if __name__ == "__main__":
    main()
