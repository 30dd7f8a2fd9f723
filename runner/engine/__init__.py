"""The container engine: Podman, through the socket that speaks Docker's API.

settings       what a machine's owner may set
errors         what goes wrong, mapped in one place from what the engine and aiodocker say
connection     the client of the engine, and who sees that there is one at the other end
sockets        where an engine listens
service        a private `podman system service`, for machines where none does
probe          what such a machine's Podman needs to be told to run a container
facts          what an engine says of itself
names          image names: what a short one means, and what stands in for it
image_rules    which images the owner allows
allowances     what else the owner allows to containers of some images or pipelines
images         pulls, one at a time for each image
private_images who may use one that was pulled with credentials of a job
pull_failures  why one failed, and whether it is worth trying again
credentials    of image registries
image_budget   removes pulled images that were not used longest
limits         what a container gets of a machine when nobody says how much
helper         the first process of a container
container      one container, and what it is made of
networks       what containers are connected by
bridge_ports   keeps those of one network from each other
firewall       keeps networks from each other
exec           one command in a container
terminal       one that somebody speaks with while it runs
processes      the processes of a container, as the host sees them
freezer        holds them still while they are looked at
memory         whether the kernel killed something of a container for want of memory
engine         all of these together
"""
