"""What several test folders share: clocks, accounts of the emulator, runs without processes, fault
drills.
"""
