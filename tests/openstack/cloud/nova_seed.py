"""Run by Nova's Python: instances in Nova's databases, through Nova's own objects.

Standard input is a JSON list of id, name, project_id and user_data (base64).
"""

import datetime
import json
import os
import sys
from pathlib import Path

from nova import config, context, objects
from nova.network import model, neutron

_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtleS1mb3ItdGVzdHMtb25seS1ub3QtcmVhbC0wMDAwMDE= tests"


def main() -> None:
    """Create all of them, in the first cell."""
    objects.register_all()
    file = Path(os.environ["OS_NOVA_CONFIG_DIR"], "nova.conf")
    config.parse_args(["seed"], default_config_files=[str(file)])
    admin = context.get_admin_context()
    cell = next(cell for cell in objects.CellMappingList.get_all(admin) if not cell.is_cell0())
    for described in json.load(sys.stdin):
        with context.target_cell(admin, cell) as in_cell:
            instance = _instance(in_cell, described)
            # What the instance knows of its network comes from Neutron, asked by Nova's own code.
            neutron.API().get_instance_nw_info(in_cell, instance, force_refresh=True)
        objects.InstanceMapping(
            admin,
            instance_uuid=instance.uuid,
            project_id=instance.project_id,
            user_id=instance.user_id,
            cell_mapping=cell,
            queued_for_delete=False,
        ).create()


def _instance(in_cell: context.RequestContext, described: dict[str, str]) -> "objects.Instance":
    name = f"instance-{described['name']}"
    instance = objects.Instance(
        in_cell,
        uuid=described["id"],
        project_id=described["project_id"],
        user_id="user",
        image_ref="",
        display_name=name,
        display_description=name,
        hostname=name,
        host="compute",
        vm_state="active",
        task_state=None,
        power_state=1,
        launch_index=0,
        reservation_id=f"r-{described['name']}",
        availability_zone="nova",
        launched_at=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        memory_mb=512,
        vcpus=1,
        root_gb=1,
        ephemeral_gb=0,
        root_device_name="/dev/vda",
        key_name="key",
        key_data=_KEY,
        keypairs=objects.KeyPairList(objects=[_key(in_cell)]),
        user_data=described["user_data"],
        metadata={"name": described["name"]},
        system_metadata={"image_base_image_ref": ""},
        security_groups=objects.SecurityGroupList(objects=[]),
        flavor=_flavor(),
        old_flavor=None,
        new_flavor=None,
        device_metadata=objects.InstanceDeviceMetadata(devices=[]),
        info_cache=objects.InstanceInfoCache(in_cell, network_info=model.NetworkInfo([])),
    )
    instance.create()
    objects.BlockDeviceMapping(
        in_cell,
        instance_uuid=instance.uuid,
        source_type="image",
        destination_type="local",
        device_name="/dev/vda",
        boot_index=0,
        disk_bus="virtio",
        device_type="disk",
        delete_on_termination=True,
    ).create()
    return instance


def _key(in_cell: context.RequestContext) -> "objects.KeyPair":
    fingerprint = ":".join(["00"] * 16)
    return objects.KeyPair(
        in_cell, user_id="user", name="key", type="ssh", public_key=_KEY, fingerprint=fingerprint
    )


def _flavor() -> "objects.Flavor":
    return objects.Flavor(
        id=1,
        name="m1.test",
        memory_mb=512,
        vcpus=1,
        root_gb=1,
        ephemeral_gb=0,
        flavorid="test",
        swap=0,
        rxtx_factor=1.0,
        vcpu_weight=1,
        disabled=False,
        is_public=True,
        extra_specs={},
        description=None,
    )


if __name__ == "__main__":
    main()
