"""Archives: tar, plain or compressed by gzip or xz, and zip; made of a workspace's files, listed, and extracted there.

Where an archive comes from is not to be trusted. It is read twice: first all of it is looked at (``contents``), and
refused as a whole, naming the entry, if anything in it leads out of the folder that it is extracted to, is there twice,
is neither file, folder nor link, or is more than it may be. Then it is read again, looked at in the same way, for it
can have changed, and what it holds is written through the workspace's jail.

    contents     what an archive may hold, and the limits
    compression  the formats, and readers that never give more than they were asked for
    reading      an archive's entries, one after the other
    writing      a new archive: the same files give the same bytes
    extraction   an archive's entries become files
"""
